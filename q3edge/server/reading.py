"""`Reading`: a request of the engine that writes nothing, such as a reranker's question about a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from q3edge.errors import UsageError
from q3edge.runtime.completion import Completion, Piece
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.requests import EngineRequest, Generation
from q3edge.runtime.generation.logprobs import TokenLogprobs


class Reading:
    """One request, computed beside others from `start` on; what it found is in the request itself."""

    logprobs: Sequence[TokenLogprobs | None] = ()

    def __init__(self, engine: Engine, request: EngineRequest) -> None:
        self._engine, self._request = engine, request
        self._generation: Generation | None = None

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self._generation is not None and self._generation.ended

    @property
    def completion(self) -> Completion:
        """Empty text, and statistics. UsageError: it is not finished."""
        if not self.finished:
            raise UsageError("the text is not read; wait for its end")
        return Completion("", "", "", (), self._request.statistics)

    def start(self, *, on_news: Callable[[], None]) -> None:
        """Queue it; see `Stream.start`."""
        self._generation = self._engine.generate(self._request, patient=True, on_news=on_news)

    def take(self) -> list[Piece]:
        """Take news, none of which is a piece. Raises the error that ended the request."""
        if self._generation is not None:
            self._generation.take()
        return []

    def close(self) -> None:
        """End it; the rest is not computed."""
        if self._generation is not None:
            self._generation.close()
