"""`Models`: the models of a server, each opened when it is first asked for, within a limit of memory."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import MANIFEST_FILE
from q3edge.artifact.sentence_files import stated_kind
from q3edge.errors import Q3EdgeError, UsageError, describe_error
from q3edge.machine.memory import available_memory
from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.model import Model
from q3edge.runtime.session.loader import load_manifest
from q3edge.runtime.session.offload import experts_on_disk
from q3edge.server import log
from q3edge.server.driver import Driver
from q3edge.server.errors import ApiError
from q3edge.server.metrics import Load, Metrics
from q3edge.server.options import ServerOptions
from q3edge.server.saved_prefixes import SavedPrefixes
from q3edge.server.workers import Workers

Kind = Literal["language", "reranker", "embedding"]
WRITING: tuple[Kind, ...] = ("language", "reranker")  # a reranker is a language model
RERANKING: tuple[Kind, ...] = ("reranker", "language")  # and not every one says so
EMBEDDING: tuple[Kind, ...] = ("embedding",)
_USES: Mapping[Kind, str] = {
    "language": "writes text: ask /v1/chat/completions", "reranker": "scores documents: ask /v1/rerank",
    "embedding": "makes vectors of texts: ask /v1/embeddings",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Known:
    """A model of the server. size: bytes that it takes while it is open; users: requests that need it open.

    driver: of a model that writes; turn: held during a pass of one that embeds.
    """

    name: str
    folder: Path
    kind: Kind
    config: Qwen3Config
    size: int
    created: int
    model: Model | EmbeddingModel | None = None
    driver: Driver | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    admitted: int = 0  # answers that run or wait
    used: float = field(default_factory=time.monotonic)


class Lease:
    """The use of an open model by one request, until `release`."""

    def __init__(self, known: Known, room: int) -> None:
        """Count a use. `room`: answers that may run and wait."""
        assert known.model is not None
        self.opened, self.name, self.config, self.turn = known.model, known.name, known.config, known.turn
        self._known, self._room, self._answers = known, room, 0
        known.users += 1

    @property
    def model(self) -> Model:
        """The model, which writes."""
        assert isinstance(self.opened, Model)
        return self.opened

    @property
    def embedding(self) -> EmbeddingModel:
        """The model, which embeds."""
        assert isinstance(self.opened, EmbeddingModel)
        return self.opened

    @property
    def driver(self) -> Driver:
        """Who makes the passes of a model that writes."""
        assert self._known.driver is not None
        return self._known.driver

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
        self._workers = Workers(1)  # so that a server ends at once, whatever it is loading

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
                known.name, driver.engine.running, driver.engine.waiting, driver.engine.slots.held,
                driver.engine.slots.budget,
            )
            for known in self.all
            if (driver := known.driver) is not None
        ]  # fmt: skip

    def find(self, name: str | None, kinds: tuple[Kind, ...] = ()) -> Known:
        """The model of that name; None: the first of the first kind that there is (no kinds: of any).

        ApiError: 404, there is none; 400, it is of another kind.
        """
        if name is None:
            fitting = [next((known for known in self.all if known.kind == kind), None) for kind in kinds]
            found = next(filter(None, fitting), None) if kinds else next(self.all)
            if found is None:
                raise ApiError(404, f"no {kinds[0]} model is served here", param="model", code="model_not_found")
            return found
        if name not in self._known:
            raise ApiError(
                404, f"model: {name[:200]!r} is not served here; there is {', '.join(self._known)}", param="model",
                code="model_not_found",
            )  # fmt: skip
        known = self._known[name]
        if kinds and known.kind not in kinds:
            raise ApiError(400, f"model: {name!r} {_USES[known.kind]}", param="model", code="model_unfit")
        return known

    async def lease(self, name: str | None, kinds: tuple[Kind, ...] = ()) -> Lease:
        """Open a model if it is not, and count a use.

        ApiError: as `find`; 503: there is no memory for it now, or it cannot be opened.
        """
        known = self.find(name, kinds)
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
        try:
            model = await self._workers.run(partial(self._opened, known))
        except (Q3EdgeError, OSError, MemoryError) as error:
            log.write("model cannot be opened", model=known.name, error=describe_error(error)[0])
            raise ApiError(503, f"the model {known.name!r} cannot be opened", code="model_unavailable") from error
        known.model = model
        if isinstance(model, Model):
            known.driver = Driver(known.name, model.engine, self.metrics)
        self.metrics.model_loads.labels(known.name).inc()
        self.metrics.model_open.labels(known.name).set(1)
        notices = [notice.detail for notice in model.notices] or None if isinstance(model, Model) else None
        kernels = (model.decoder if isinstance(model, Model) else model.network).kernels
        seconds = round(time.monotonic() - began, 3)
        log.write("model opened", model=known.name, seconds=seconds, kernels=kernels, notices=notices)

    def _opened(self, known: Known) -> Model | EmbeddingModel:
        options = self._options
        if known.kind == "embedding":
            return EmbeddingModel.open(known.folder, threads=options.threads, kernels=options.kernels)
        model = Model.open(
            known.folder, threads=options.threads, speculate=True, max_batch=options.max_batch,
            kv_memory=options.kv_memory, context=options.context, kept=options.max_batch,
            offload=options.offload if known.config.moe is not None else None, kernels=options.kernels,
        )  # fmt: skip
        SavedPrefixes(options.prefix_dir, known.name).restore(model)
        return model

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
        if model is None:
            return
        if driver is not None:
            await asyncio.to_thread(driver.stop)
        model.close()
        self.metrics.model_open.labels(known.name).set(0)
        log.write("model closed", model=known.name)
        del model, driver
        gc.collect()  # its memory is back before another takes some

    def _look_at(self, name: str, folder: Path) -> Known:
        config = Qwen3Config.load(folder)
        manifest = load_manifest(folder, "onnx", "embedding")
        kind: Kind = "embedding"
        if manifest.kind != "embedding":
            kind = "reranker" if stated_kind(folder) == "reranker" else "language"
        cache = 0 if kind == "embedding" else self._options.kv_memory or 0
        size = sum(record.size for record in manifest.files.values()) + cache
        if self._options.offload:
            size -= experts_on_disk(folder)
        if self._options.memory_limit is not None and size > self._options.memory_limit:
            raise UsageError(
                f"memory_limit = {self._options.memory_limit} bytes: {name} takes {size} with its keys and values"
            )
        return Known(name, folder, kind, config, size, int((folder / MANIFEST_FILE).stat().st_mtime))
