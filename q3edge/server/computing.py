"""`compute`: how endpoints answer that need an open model, and generate no text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from q3edge.runtime.model import Model
from q3edge.server.body import Body
from q3edge.server.service import Service, read_fields, record_of, service_of

Fields = TypeVar("Fields", bound=Body)


async def compute(
    request: Request,
    schema: type[Fields],
    name: Callable[[Fields], str | None],
    work: Callable[[Fields, Model, Service], dict[str, Any]],
) -> Response:
    """Answer a request with what `work` finds, in a worker thread; name: the model that the fields ask for.

    ApiError: the request is refused.
    """
    service = service_of(request)
    fields = await read_fields(request, schema)
    lease = await service.models.lease(name(fields))
    try:
        record_of(request).model = lease.name
        return JSONResponse(await service.in_worker(work, fields, lease.model, service))
    finally:
        lease.release()
