"""Results of a generation: a `Stream` of `Piece`s while it runs, and the `Completion` after the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import Lock, get_ident
from typing import Any, Literal, Self
from weakref import finalize

from q3edge.artifact import Notice
from q3edge.errors import UsageError
from q3edge.runtime.engine.requests import Generation
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.text.messages import Message
from q3edge.runtime.text.tool_calls import CalledTool


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of an answer as it arrives; `thinking`: it belongs to the thinking before the answer.

    `tool_call`: a call of a tool, as soon as it is whole; the text is then empty, and never otherwise.
    """

    text: str
    thinking: bool = False
    tool_call: CalledTool | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """Finished generation: its whole text, that split into thinking and answer, its ids (no stop token), statistics.

    A stop string and what follows are in none of the texts; the ids are those of all tokens that were computed for it.
    `notices` say what is out of the ordinary: thinking that never came to an answer, a switch that does nothing.
    `logprobs`, where the settings ask for them: one for each of token_ids, None for a token that was forced, as those
    that end a thinking budget are. `settings`: those that were in effect. `tool_calls`: calls of the tools given, which
    are in `text` and not in `answer`.
    """

    text: str
    thinking: str
    answer: str
    token_ids: tuple[int, ...]
    stats: Statistics
    notices: tuple[Notice, ...] = ()
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    tool_calls: tuple[CalledTool, ...] = ()

    @property
    def finish_reason(self) -> Literal["stop", "length", "tool_calls"]:
        """Why it ended, in the words of OpenAI's API: "tool_calls" where it came to its end and calls tools."""
        return "tool_calls" if self.tool_calls and self.stats.finish_reason == "stop" else self.stats.finish_reason

    def message(self) -> Message:
        """Assistant's message that continues the conversation: the answer and its calls, numbered; no thinking.

        A call's result follows as a message of the role "tool", with the call's id as its tool_call_id.
        """
        said: Message = {"role": "assistant", "content": self.answer}
        if self.tool_calls:
            said["tool_calls"] = [call.in_message(index) for index, call in enumerate(self.tool_calls)]
        return said

    def to_json(self) -> dict[str, Any]:
        """JSON object of all fields; `stats` have rates too, and token ids of settings are lists."""
        rates = {
            "time_to_first_token": self.stats.time_to_first_token,
            "prefill_tokens_per_second": self.stats.prefill_tokens_per_second,
            "decode_tokens_per_second": self.stats.decode_tokens_per_second,
        }
        settings = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in asdict(self.settings).items()
        }
        return asdict(self) | {
            "finish_reason": self.finish_reason,
            "stats": asdict(self.stats) | rates,
            "settings": settings,
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Log probabilities of a given text: one for each of its token ids, None for the first, which has none before it.

    They are those of the model's softmax, as in `TokenLogprobs`.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs | None, ...]
    stats: Statistics

    @property
    def total(self) -> float:
        """Natural log probability of the text behind its first token: their sum."""
        return sum(entry.logprob for entry in self.logprobs if entry is not None)


class Stream(Iterator[Piece]):
    """Iterator over the pieces of one generation, computed as they are asked for; after the last, its `completion`.

    It takes part in the model's passes from `start`, or the first piece, to the last, or to `close`, which ends it
    early, as dropping it does.
    """

    def __init__(
        self,
        begin: Callable[[bool, Callable[[], None] | None], Generation],
        pieces: deque[Piece],
        end: Callable[[], Completion],
        check: Callable[[], None],
        logprobs: Sequence[TokenLogprobs | None] = (),
        prompt_progress: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """`begin` queues the generation, told whether it is patient and whom to call with news; each of its tokens has
        put what it completes into `pieces` before it comes. `end` puts the rest there, after the last. `check` raises
        an error if nothing may be computed any more. `logprobs`: see `Completion`; they grow with the tokens, and are
        there before the pieces of their tokens. `prompt_progress`: gives the property of that name.
        """
        self._prompt_progress = prompt_progress
        self._begin, self._pieces, self._end, self._check = begin, pieces, end, check
        self.logprobs = logprobs
        self._generation: Generation | None = None
        self._at_drop: finalize[..., Any] | None = None
        self._completion: Completion | None = None
        self._closed = False
        self._lock = Lock()
        self._reader: int | None = None  # the thread that takes pieces

    def start(self, *, patient: bool = False, on_news: Callable[[], None] | None = None) -> None:
        """Queue the generation, if that has not happened: it is computed along with what others wait for.

        patient: nobody looks at single pieces, so other generations need not make way. on_news: called when `take` may
        have something to give, by whichever thread makes the passes; it must be short and raise nothing. UsageError:
        the model is closed.
        """
        if self._generation is None and not self._closed:
            self._generation = self._begin(patient, on_news)
            self._at_drop = finalize(self, self._generation.close)
            self._at_drop.atexit = False

    @property
    def finished(self) -> bool:
        """Whether the generation has ended by itself; pieces may be left."""
        return self._completion is not None

    def __next__(self) -> Piece:
        """Compute the next piece. UsageError: the model is closed, or another thread is taking a piece."""
        self.start()
        if self._closed or self._generation is None:
            raise StopIteration
        with self._read_alone(), self._closed_by_errors():
            while not self._pieces and not self.finished:
                if next(self._generation, None) is None:
                    self._completion = self._end()
            if self._pieces:
                return self._pieces.popleft()
        self.close()
        raise StopIteration

    def take(self) -> list[Piece]:
        """Take the pieces that others' passes have computed, without waiting: none, or the last if it has `finished`.

        Raises the error that ended the generation. UsageError: as of the next piece.
        """
        if self._closed or self._generation is None:
            return []
        found = []
        with self._read_alone(), self._closed_by_errors():
            self._generation.take()
            if self._generation.ended and not self.finished:
                self._completion = self._end()
            while self._pieces:
                found.append(self._pieces.popleft())
        return found

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """How many tokens of the prompt have been read, of how many. May be asked for from any thread."""
        return self._prompt_progress()

    @property
    def completion(self) -> Completion:
        """Finished generation. UsageError: there are pieces left, or it was closed before its end."""
        if self._completion is None or self._pieces:
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
        if self._generation is not None and self._at_drop is not None:
            self._generation.close()
            self._at_drop.detach()

    @contextmanager
    def _read_alone(self) -> Iterator[None]:
        """Refuse a second thread beside the one that takes a piece, and leave that one alone."""
        me = get_ident()
        with self._lock:
            if self._reader not in (None, me):
                raise UsageError("another thread is reading this stream; give each thread a stream of its own")
            self._reader = me
        try:
            yield
        finally:
            self._reader = None

    @contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        try:
            self._check()
            yield
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
