"""`Models`: the models of a server, each opened when it is first asked for, within a limit of memory."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MANIFEST_FILE, Manifest
from q3edge.errors import Q3EdgeError, UsageError, describe_error
from q3edge.machine.memory import available_memory
from q3edge.runtime.model import Model
from q3edge.server import log
from q3edge.server.driver import Driver
from q3edge.server.errors import ApiError
from q3edge.server.metrics import Load, Metrics
from q3edge.server.options import ServerOptions


@dataclass(slots=True, eq=False)
class Known:
    """A model of the server. size: bytes that it takes while it is open; users: requests that need it open."""

    name: str
    folder: Path
    config: Qwen3Config
    size: int
    created: int
    model: Model | None = None
    driver: Driver | None = None
    users: int = 0
    admitted: int = 0  # answers that run or wait
    used: float = field(default_factory=time.monotonic)


class Lease:
    """The use of an open model by one request, until `release`."""

    def __init__(self, known: Known, room: int) -> None:
        """Count a use. `room`: answers that may run and wait."""
        assert known.model is not None
        assert known.driver is not None
        self.model, self.driver, self.name = known.model, known.driver, known.name
        self._known, self._room, self._answers = known, room, 0
        known.users += 1

    def admit(self, answers: int) -> None:
        """Take places for so many answers. ApiError: 400, there are never so many; 503, there are none now."""
        if answers > self._room:
            raise ApiError(400, f"{answers} answers in one request: this server takes {self._room}", param="n")
        if self._known.admitted + answers > self._room:
            raise ApiError(503, "the queue is full; try again later", code="queue_full")
        self._known.admitted += answers
        self._answers += answers

    def release(self) -> None:
        """End the use."""
        self._known.admitted -= self._answers
        self._known.users -= 1
        self._known.used = time.monotonic()


class Models:
    """Models by their names, the first of which is open from the start."""

    def __init__(self, options: ServerOptions) -> None:
        """Look at each folder. InputError: one is no model. UsageError: one is larger than the limit of memory."""
        self.metrics = Metrics(self.loads)
        self._options = options
        self._limit = options.memory_limit if options.memory_limit is not None else available_memory()
        self._known = {name: self._look_at(name, folder) for name, folder in options.folders.items()}
        self._opening = asyncio.Lock()

    @property
    def all(self) -> Iterator[Known]:
        """The models, in the order in which they were given."""
        return iter(self._known.values())

    @property
    def room(self) -> int:
        """Answers of one model that may run and wait."""
        return self._options.max_batch + self._options.max_queue

    @property
    def full(self) -> bool:
        """Whether some model takes no further answer."""
        return any(known.admitted >= self.room for known in self.all)

    def loads(self) -> list[Load]:
        """What the open models are doing."""
        return [
            Load(
                known.name, known.model.engine.running, known.model.engine.waiting, known.model.engine.slots.held,
                known.model.engine.slots.budget,
            )
            for known in self.all
            if known.model is not None
        ]  # fmt: skip

    def find(self, name: str | None) -> Known:
        """The model of that name; None: the only one, or the first. ApiError 404: there is none."""
        if name is None:
            return next(self.all)
        if name not in self._known:
            raise ApiError(
                404, f"model: {name[:200]!r} is not served here; there is {', '.join(self._known)}", param="model",
                code="model_not_found",
            )  # fmt: skip
        return self._known[name]

    async def lease(self, name: str | None) -> Lease:
        """Open a model if it is not, and count a use. ApiError: 404, unknown; 503, no memory for it now, or unfit."""
        known = self.find(name)
        if known.model is None:
            async with self._opening:
                if known.model is None:
                    await self._open(known)
        return Lease(known, self.room)

    async def close(self) -> None:
        """Close all."""
        for known in self.all:
            await self._close(known)

    async def _open(self, known: Known) -> None:
        await self._make_room(known)
        began = time.monotonic()
        options = self._options
        try:
            model = await asyncio.to_thread(
                Model.open, known.folder, threads=options.threads, speculate=True, max_batch=options.max_batch,
                kv_memory=options.kv_memory, context=options.context, kept=options.max_batch,
            )  # fmt: skip
        except (Q3EdgeError, OSError, MemoryError) as error:
            log.write("model cannot be opened", model=known.name, error=describe_error(error)[0])
            raise ApiError(503, f"the model {known.name!r} cannot be opened", code="model_unavailable") from error
        known.model, known.driver = model, Driver(known.name, model.engine, self.metrics)
        self.metrics.model_loads.labels(known.name).inc()
        self.metrics.model_open.labels(known.name).set(1)
        notices = [notice.detail for notice in model.notices] or None
        log.write("model opened", model=known.name, seconds=round(time.monotonic() - began, 3), notices=notices)

    async def _make_room(self, known: Known) -> None:
        """Close models that nobody uses, the longest unused first, until there is memory for this one."""
        while self._limit is not None and known.size + sum(each.size for each in self._open_ones()) > self._limit:
            idle = [each for each in self._open_ones() if not each.users]
            if not idle and next(self._open_ones(), None) is not None:
                raise ApiError(503, f"no memory for the model {known.name!r} beside those in use", code="model_busy")
            if not idle:
                return
            await self._close(min(idle, key=lambda each: each.used))

    def _open_ones(self) -> Iterator[Known]:
        return (known for known in self.all if known.model is not None)

    async def _close(self, known: Known) -> None:
        model, driver, known.model, known.driver = known.model, known.driver, None, None
        if model is None or driver is None:
            return
        await asyncio.to_thread(driver.stop)
        model.close()
        self.metrics.model_open.labels(known.name).set(0)
        log.write("model closed", model=known.name)
        del model, driver
        gc.collect()  # its memory is back before another takes some

    def _look_at(self, name: str, folder: Path) -> Known:
        config = Qwen3Config.load(folder)
        manifest = Manifest.load(folder)
        size = sum(record.size for record in manifest.files.values()) + (self._options.kv_memory or 0)
        if self._options.memory_limit is not None and size > self._options.memory_limit:
            raise UsageError(
                f"memory_limit = {self._options.memory_limit} bytes: {name} takes {size} with its keys and values"
            )
        return Known(name, folder, config, size, int((folder / MANIFEST_FILE).stat().st_mtime))
