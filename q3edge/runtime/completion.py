"""Results of a generation: a `Stream` of `Piece`s while it runs, and the `Completion` after the last."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Self

from q3edge.artifact import Notice
from q3edge.errors import UsageError
from q3edge.runtime.generation.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of an answer as it arrives, never empty; `thinking`: it belongs to the thinking before the answer."""

    text: str
    thinking: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """Finished generation: its whole text, that split into thinking and answer, its ids (no stop token), statistics.

    A stop string and what follows are in none of the texts; the ids are those of all tokens that were computed for it.
    `notices` say what is out of the ordinary: thinking that never came to an answer, a switch that does nothing.
    """

    text: str
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    stats: Statistics
    notices: tuple[Notice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON object with text, thinking, answer, token_ids, notices, and stats: counts, seconds and rates."""
        rates = {
            "time_to_first_token": self.stats.time_to_first_token,
            "prefill_tokens_per_second": self.stats.prefill_tokens_per_second,
            "decode_tokens_per_second": self.stats.decode_tokens_per_second,
        }
        return asdict(self) | {"stats": asdict(self.stats) | rates}


class Stream(Iterator[Piece]):
    """Iterator over the pieces of one generation, computed as they are asked for; after the last, its `completion`.

    The model is busy from the first piece to the last, or to `close`, which ends the generation early.
    """

    def __init__(self, pieces: Generator[Piece, None, Completion]) -> None:
        self._pieces = pieces
        self._completion: Completion | None = None

    def __next__(self) -> Piece:
        """Compute the next piece. UsageError: the model is closed, or busy with another generation."""
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._completion = self._completion or end.value
            raise StopIteration from None

    @property
    def completion(self) -> Completion:
        """Finished generation. UsageError: there are pieces left, or it was closed before its end."""
        if self._completion is None:
            ended = getgeneratorstate(self._pieces) == GEN_CLOSED
            todo = "it was closed, or failed; ask again" if ended else "take all pieces of the stream first"
            raise UsageError(f"the generation is not finished; {todo}")
        return self._completion

    def finish(self) -> Completion:
        """Compute all pieces that are left; returns the finished generation.

        UsageError: the model is closed, or busy with another generation, or the stream was closed before its end.
        """
        for _ in self:
            pass
        return self.completion

    def close(self) -> None:
        """End the generation; the rest is not computed, and the model is free for another one."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
