"""`Service`: what the endpoints of one server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from q3edge.server import log
from q3edge.server.body import Schema, read_body
from q3edge.server.errors import GONE, ApiError, shutting_down
from q3edge.server.metrics import Metrics
from q3edge.server.models import Models
from q3edge.server.options import ServerOptions
from q3edge.server.workers import Workers

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_WORKERS = 8  # threads for parsing, templates and tokenizing
RECORD = "q3edge.record"
NOBODY = Response(status_code=GONE)  # for a client that went away


@dataclass(slots=True)
class Record:
    """What the log and the metrics say of one request; endpoints fill it."""

    id: str
    model: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    new_tokens: int | None = None
    first_token_seconds: float | None = None
    finish_reasons: list[str] | None = None
    error: str | None = None
    outcome: str | None = None  # where the status does not say it
    prompt: object = None  # only if the server was told to log them

    def fail(self, refused: ApiError, error: Exception) -> None:
        """Note that the request was refused because of `error`; what nobody foresaw is logged, once."""
        if refused.unforeseen and self.error is None:
            log.failure(self.id, error)
        if refused.status == GONE:
            self.outcome = "cancelled"
        self.error = refused.logged


class Service:
    """Options, models, metrics, worker threads, and whether the server is ending."""

    def __init__(self, options: ServerOptions, models: Models) -> None:
        """Start without requests."""
        self.options, self.models = options, models
        self.metrics: Metrics = models.metrics
        self.ready = False  # the first model is open
        self.draining = False
        self.hurried = False  # it ends, and waits for no answer
        self.live = 0  # requests that are being carried out
        self.held_bytes = 0  # of bodies of requests that are being carried out
        self._workers = Workers(_WORKERS)

    async def in_worker(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run a function that takes its time in a thread, so that the event loop goes on."""
        return await self._workers.run(partial(function, *args, **kwargs))

    async def open_first(self) -> None:
        """Open the first model: from then on the server is ready. What keeps it from opening is raised as it is."""
        try:
            lease = await self.models.lease(None)
        except ApiError as error:
            raise error.__cause__ or error from None
        lease.release()
        self.ready = True

    def end_answers(self) -> None:
        """End all answers early; each client is told."""
        self.hurried = True
        for known in self.models.all:
            for answers in list(known.driver.live if known.driver is not None else ()):
                answers.end(shutting_down())

    async def close(self) -> None:
        """Close the models."""
        await self.models.close()


async def read_fields(request: Request, schema: type[Schema]) -> Schema:
    """Read a request's body, in a worker thread. Errors are those of `read_body`."""
    service, data = service_of(request), await request.body()
    fields = await service.in_worker(read_body, data, schema)
    if service.options.log_prompts:
        record_of(request).prompt = data.decode()
    return fields


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Wait for `work`; None: the client went away, and nobody needs it."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        record_of(request).outcome = "cancelled"
        return None
    finally:
        for task in (working, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


def record_of(request: Request) -> Record:
    """The record of a request."""
    record: Record = request.scope[RECORD]
    return record
