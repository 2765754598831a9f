"""`Driver`: the thread that makes an engine's passes; `Answers`: generations of one request, for the event loop.

The loop never waits for a pass: it queues generations, and takes pieces when the driver says that there are some.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Protocol

from q3edge.runtime.completion import Completion, Piece
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.server import log
from q3edge.server.errors import ApiError
from q3edge.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Update:
    """News of the answer number `index` of a request: its new pieces, and its completion behind the last.

    logprobs: those of the tokens behind which the last pieces came, where they are asked for.
    """

    index: int
    pieces: list[Piece]
    logprobs: Sequence[TokenLogprobs | None]
    completion: Completion | None


class Source(Protocol):
    """What is computed for a request: a `Stream`, or a `Reading`, which has no pieces."""

    logprobs: Sequence[TokenLogprobs | None]

    @property
    def finished(self) -> bool: ...
    @property
    def completion(self) -> Completion: ...

    def start(self, *, on_news: Callable[[], None]) -> None: ...
    def take(self) -> list[Piece]: ...
    def close(self) -> None: ...


class Driver:
    """Thread that makes the passes of one model's engine while there is work, and sleeps else."""

    def __init__(self, name: str, engine: Engine, metrics: Metrics) -> None:
        """Start the thread. Belongs to the running event loop."""
        self.name, self.engine, self.metrics = name, engine, metrics
        self.live: set[Answers] = set()
        self._loop = asyncio.get_running_loop()
        self._told: deque[Answers] = deque()
        self._posted = False
        self._work = Event()
        self._stopped = False
        self.failed: ApiError | None = None
        self._thread = Thread(target=self._run, name=f"passes of {name}", daemon=True)
        self._thread.start()

    def submit(self, streams: Sequence[Source]) -> Answers:
        """Queue generations; UsageError: one may take more of the KV cache than there is."""
        if self.failed is not None:
            raise self.failed
        answers = Answers(self, streams)
        self._work.set()
        return answers

    def stop(self) -> None:
        """End the thread, once its present pass is made."""
        self._stopped = True
        self._work.set()
        self._thread.join()

    def tell(self, answers: Answers) -> None:
        """Have the event loop look at `answers`; called by whichever thread makes a pass."""
        self._told.append(answers)
        if not self._posted:  # one call for the news of a whole pass, where the loop is not faster
            self._posted = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._posted = False
        while self._told:
            self._told.popleft().news.set()

    def _run(self) -> None:
        while not self._stopped:
            self._work.wait()
            self._work.clear()
            try:
                while self.engine.busy and not self._stopped:
                    self.engine.step()
            except Exception as error:  # of no request alone: nothing more can be computed
                log.write("engine failed", model=self.name, error=f"{type(error).__name__}: {error}")
                told = f"the model {self.name!r} has failed; the server's log has more"
                self.failed = ApiError(503, told, code="model_failed")
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._end_all)
                return

    def _end_all(self) -> None:
        assert self.failed is not None
        for answers in list(self.live):
            answers.end(self.failed)


class Answers:
    """Generations of one request, computed from the beginning on; `close` ends what is not finished."""

    def __init__(self, driver: Driver, streams: Sequence[Source]) -> None:
        """Queue `streams`."""
        self.news = asyncio.Event()
        self.first_seconds: float | None = None  # until the first piece of any
        self._driver, self._streams = driver, streams
        self._ended: ApiError | None = None
        self._last = time.perf_counter()
        driver.live.add(self)
        try:
            for stream in streams:
                stream.start(on_news=lambda: driver.tell(self))
        except BaseException:
            self.close()
            raise

    def end(self, error: ApiError) -> None:
        """End them early: who reads them gets `error`."""
        self._ended = error
        self.news.set()

    def close(self) -> None:
        """Free what they hold; the rest is not computed."""
        self._driver.live.discard(self)
        for stream in self._streams:
            stream.close()

    async def updates(self) -> AsyncIterator[Update]:
        """Wait for news and yield them, until all have finished. Raises the error that ended one of them."""
        left = dict(enumerate(self._streams))
        told = [0] * len(self._streams)  # log probabilities
        while left:
            await self.news.wait()
            self.news.clear()
            if self._ended is not None:
                raise self._ended
            for index, stream in list(left.items()):
                pieces = stream.take()
                logprobs = stream.logprobs[told[index] :]
                told[index] += len(logprobs)
                completion = stream.completion if stream.finished else None
                if completion is not None:
                    del left[index]
                    self._count(completion)
                if pieces or logprobs or completion is not None:
                    self._time()
                    yield Update(index, pieces, logprobs, completion)

    async def completions(self) -> list[Completion]:
        """Wait for all; returns them in their order."""
        found: dict[int, Completion] = {}
        async for update in self.updates():
            if update.completion is not None:
                found[update.index] = update.completion
        return [found[index] for index in sorted(found)]

    def _time(self) -> None:
        now, metrics, name = time.perf_counter(), self._driver.metrics, self._driver.name
        if self.first_seconds is None:
            self.first_seconds = now - self._last
            metrics.first_token.labels(name).observe(self.first_seconds)
        else:
            metrics.between_tokens.labels(name).observe(now - self._last)
        metrics.batch_size.labels(name).observe(max(self._driver.engine.running, 1))
        self._last = now

    def _count(self, completion: Completion) -> None:
        metrics, name, stats = self._driver.metrics, self._driver.name, completion.stats
        metrics.prompt_tokens.labels(name).inc(stats.prompt_tokens)
        metrics.cached_tokens.labels(name).inc(stats.reused_tokens)
        metrics.new_tokens.labels(name).inc(stats.new_tokens)
