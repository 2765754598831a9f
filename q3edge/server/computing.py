"""`compute`: how endpoints answer that need an open model, and write no text."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from q3edge.server.body import Body
from q3edge.server.models import Kind, Lease
from q3edge.server.sampling_fields import Text
from q3edge.server.service import NOBODY, Service, read_fields, record_of, service_of, unless_gone


class ModelFields(Body):
    """Fields of every such request."""

    model: Text | None = None


class _PatientResponse(JSONResponse):
    """JSON written value by value: in one piece, a thousand vectors would hold up all other threads for a second."""

    def render(self, content: Any) -> bytes:
        """Write the body."""
        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return "".join(encoder.iterencode(content)).encode()


Fields = TypeVar("Fields", bound=ModelFields)


async def compute(
    request: Request,
    schema: type[Fields],
    kinds: tuple[Kind, ...],
    work: Callable[[Fields, Lease, Service], Coroutine[Any, Any, dict[str, Any]]],
    *,
    places: Callable[[Fields], int] = lambda _fields: 1,
) -> Response:
    """Answer a request with what `work` finds; it ends where it waits, should the client go away.

    kinds: models that it fits, none: all. places: how many it takes among the answers that run and wait, at
    most all. ApiError: the
    request is refused.
    """
    service, record = service_of(request), record_of(request)
    fields = await read_fields(request, schema)
    lease = await service.models.lease(fields.model, kinds)
    try:
        record.model = lease.name
        lease.admit(min(places(fields), service.models.room))
        found = await unless_gone(request, work(fields, lease, service))
        if found is None:
            return NOBODY
        record.prompt_tokens = found.get("usage", {}).get("prompt_tokens")
        return await service.in_worker(_PatientResponse, found)
    finally:
        lease.release()
