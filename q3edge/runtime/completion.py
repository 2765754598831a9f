"""What a generation gives: `Piece` by `Piece` while it runs, and the `Completion` behind the last."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from q3edge.errors import UsageError
from q3edge.runtime.generation.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer as it arrives, never empty; whether it belongs to the thinking before the answer."""

    text: str
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished generation: all its text, the two parts of it, its ids (no stop token), and what it took."""

    text: str
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    stats: Statistics

    def to_json(self) -> dict[str, Any]:
        """A JSON object: text, thinking, answer, token_ids, and the statistics' counts, seconds and rates."""
        rates = {
            "time_to_first_token": self.stats.time_to_first_token,
            "prefill_tokens_per_second": self.stats.prefill_tokens_per_second,
            "decode_tokens_per_second": self.stats.decode_tokens_per_second,
        }
        return asdict(self) | {"stats": asdict(self.stats) | rates}


class Stream(Iterator[Piece]):
    """The pieces of one generation, computed as they are asked for; behind the last, its `completion`.

    The model is busy from the first piece to the last, or to `close`, which ends the generation early.
    """

    def __init__(self, pieces: Generator[Piece, None, Completion]) -> None:
        self._pieces = pieces
        self._completion: Completion | None = None

    def __next__(self) -> Piece:
        """The next piece. UsageError: the model is closed, or busy with another generation."""
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._completion = self._completion or end.value
            raise StopIteration from None

    @property
    def completion(self) -> Completion:
        """The finished generation. UsageError: there are pieces left, or it was closed before its end."""
        if self._completion is None:
            raise UsageError("the generation is not finished; take all pieces of the stream first")
        return self._completion

    def finish(self) -> Completion:
        """Take all pieces that are left; the finished generation. Errors: as `next` and `completion`."""
        for _ in self:
            pass
        return self.completion

    def close(self) -> None:
        """End the generation; what is left of it is not computed."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
