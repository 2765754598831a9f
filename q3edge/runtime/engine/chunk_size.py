"""`ChunkSize`: how many tokens of a prompt go into a pass while other requests wait for their next token."""

from __future__ import annotations

from q3edge.runtime.engine.slots import PREFILL_CHUNK

_MULTIPLE = 8  # tokens; 16, a tile of the matrix kernels, is too coarse where 24 have room
_SMALLEST = 4  # fewer bring a prompt on by little: a pass costs as much as some tokens before the first
_RATE = 1 / 4  # weight of the newest pass in the running averages
_RIDES = 8  # chunks in a row that share their passes, until a pass without one is measured again
_FIRST = 0.25  # cost of a token in a chunk before any is measured, in passes over one token


class ChunkSize:
    """Measures passes, so that between two tokens of a running request a chunk takes a given multiple of their pass.

    Sizes follow the clock, so that they differ from run to run; a chunk that nobody waits behind is always as large.
    """

    def __init__(self, multiple: float) -> None:
        """Allow chunks `multiple` times the seconds of a pass of the running requests, between two of these."""
        self._multiple = multiple
        self._step: float | None = None  # seconds of a pass of the running requests
        self._rows = 0  # how many these were
        self._rides = 0  # chunks in their passes since
        self._token: float | None = None  # seconds of a token in a chunk
        self._spent = 0.0  # seconds of chunks since the last such pass

    def choose(self, prompts: int = 1) -> int:
        """Tokens of the next chunk while requests are running: 4, or a multiple of 8.

        prompts: how many wait to be read, each of which may take the given multiple of a pass.
        """
        return max(_SMALLEST, self._room(prompts))

    def has_room(self, prompts: int) -> bool:
        """Whether a further chunk has its time before the running requests have their next pass."""
        return self._room(prompts) > 0

    def rides(self, tokens: int, prompts: int, rows: int) -> bool:
        """Whether a chunk of so many tokens shares the next pass of `rows` running requests.

        It is the one that takes up their time: what comes before it comes sooner without them. How long their pass
        takes by itself has to be known.
        """
        return rows == self._rows and self._rides < _RIDES and self._room(prompts) - tokens < _MULTIPLE

    def record_step(self, seconds: float, rows: int = 1) -> None:
        """Record a pass of so many running requests."""
        if self._step is None or rows != self._rows:
            self._step, self._rows = seconds, rows
        else:
            self._step += _RATE * (seconds - self._step)
        self._spent, self._rides = 0.0, 0

    def record_chunk(self, tokens: int, seconds: float) -> None:
        """Record a chunk."""
        each = seconds / tokens
        self._token = each if self._token is None else self._token + _RATE * (each - self._token)
        self._spent += seconds

    def record_ride(self, tokens: int, seconds: float) -> None:
        """Record a pass of the running requests that had a chunk, too."""
        self.record_chunk(tokens, max(seconds - (self._step or 0.0), 0.0))
        self._spent = 0.0
        self._rides += 1

    def _room(self, prompts: int) -> int:
        """Tokens that have their time, a multiple of 8."""
        if self._step is None:
            return 0
        token = self._token or _FIRST * self._step
        left = max(prompts * self._multiple * self._step - self._spent, 0.0)
        return min(int(left / token), PREFILL_CHUNK) // _MULTIPLE * _MULTIPLE
