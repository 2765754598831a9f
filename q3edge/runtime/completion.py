"""Results of a generation: a `Stream` of `Piece`s while it runs, and the `Completion` after the last."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self
from weakref import finalize

from q3edge.artifact import Notice
from q3edge.errors import UsageError
from q3edge.runtime.engine.engine import Generation
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

    It takes part in the model's passes from `start`, or the first piece, to the last, or to `close`, which ends it
    early, as dropping it does.
    """

    def __init__(
        self,
        start: Callable[[bool], Generation],
        pieces: Callable[[Generation], Generator[Piece, None, Completion]],
    ) -> None:
        """`start` begins the generation, told whether it is patient; `pieces` makes its tokens pieces."""
        self._begin, self._make_pieces = start, pieces
        self._generation: Generation | None = None
        self._pieces: Generator[Piece, None, Completion] | None = None
        self._completion: Completion | None = None
        self._closed = False

    def start(self, *, patient: bool = False) -> None:
        """Queue the generation, if that has not happened: it is computed along with what others wait for.

        patient: nobody looks at single pieces, so other generations need not make way. UsageError: the model is closed.
        """
        if self._pieces is None and not self._closed:
            self._generation = self._begin(patient)
            self._pieces = self._make_pieces(self._generation)
            finalize(self, self._generation.close).atexit = False

    def __next__(self) -> Piece:
        """Compute the next piece. UsageError: the model is closed."""
        self.start()
        if self._closed or self._pieces is None:
            raise StopIteration
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._completion = self._completion or end.value
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    @property
    def completion(self) -> Completion:
        """Finished generation. UsageError: there are pieces left, or it was closed before its end."""
        if self._completion is None:
            todo = "it was closed, or failed; ask again" if self._closed else "take all pieces of the stream first"
            raise UsageError(f"the generation is not finished; {todo}")
        return self._completion

    def finish(self) -> Completion:
        """Compute all pieces that are left; returns the finished generation.

        UsageError: the model is closed, or the stream was closed before its end.
        """
        for _ in self:
            pass
        return self.completion

    def close(self) -> None:
        """End the generation; the rest is not computed."""
        self._closed = True
        if self._generation is not None:
            self._generation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
