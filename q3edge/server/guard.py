"""`Guard`: what holds for every request, whatever its path: host, origin, key, size, time, log and metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from ipaddress import ip_address
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from q3edge.server import log
from q3edge.server.errors import GONE, ApiError, as_api_error, shutting_down
from q3edge.server.limits import MAX_BODY, MAX_HELD, SEND_SECONDS
from q3edge.server.service import RECORD, Record, Service

_OUTCOMES = {2: "ok", 3: "ok", 4: "refused", 5: "failed"}


class Guard:
    """ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str], open_paths: frozenset[str]) -> None:
        """Guard `app`; `paths`: those that metrics name; `open_paths`: those that need no key."""
        self._app, self._service, self._paths, self._open_paths = app, service, paths, open_paths
        options = service.options
        self._keys = [key.encode() for key in options.keys]
        self._hosts = {"localhost", options.host.lower(), *(host.lower() for host in options.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out or refuse one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        record = scope[RECORD] = Record(uuid4().hex)
        carried = _Carried(self._service, receive, send, record.id)
        began = time.perf_counter()
        try:
            self._check(scope)
            self._service.live += 1
            try:
                await self._app(scope, carried.receive, carried.send)
            finally:
                self._service.live -= 1
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not self._service.draining:
                    raise
                error = shutting_down()
            refused = as_api_error(error)
            record.fail(refused, error)
            if carried.status is None:
                await refused.response()(scope, receive, carried.send)
        finally:
            self._service.held_bytes -= carried.held
            self._note(scope, record, carried, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(headers)
        if scope["path"] not in self._open_paths:
            self._check_key(headers)
        if int(headers.get("content-length") or 0) > MAX_BODY:
            raise _too_large()
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may see its end elsewhere
            raise ApiError(
                400, "content-length: not beside transfer-encoding", code="invalid_http",
                headers={"Connection": "close"},
            )  # fmt: skip
        if scope["method"] == "POST":
            if self._service.draining:
                raise shutting_down()
            kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json":  # which a web page of another site may not send unasked
                raise ApiError(
                    415, f"content-type {kind[:100]!r}: send application/json", code="unsupported_media_type"
                )

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not the server's: a page whose name was pointed here would pass as its own (rebinding).

        An address is no name, so nothing can be pointed.
        """
        host = _without_port(headers.get("host", ""))
        if host in self._hosts:
            return
        try:
            ip_address(host)
        except ValueError:
            raise ApiError(
                403, "host: this server does not go by that name; it is told further ones by --allow-host",
                code="unknown_host",
            ) from None  # fmt: skip

    def _check_origin(self, headers: Headers) -> None:
        """Refuse requests of web pages of other sites."""
        origin = headers.get("origin")
        if origin is None or origin in self._service.options.origins:
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise ApiError(403, "origin: pages of other sites may not use this server", code="foreign_origin")

    def _check_key(self, headers: Headers) -> None:
        """Refuse a request without a key."""
        if not self._keys:
            return
        given = _given_key(headers.get("authorization", ""))
        if not sum(hmac.compare_digest(given, key) for key in self._keys):  # all are compared, whichever fits
            raise ApiError(
                401, "authorization: expected Bearer and a key of this server", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _note(self, scope: Scope, record: Record, carried: _Carried, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        outcome = record.outcome or ("overloaded" if carried.status == 503 else None)
        outcome = outcome or (_OUTCOMES[carried.status // 100] if carried.status else "gone")
        self._service.metrics.requests.labels(path, outcome).inc()
        self._service.metrics.request_seconds.labels(path).observe(seconds)
        log.write(
            "request", id=record.id, method=scope["method"] if path != "other" else None, path=path,
            status=carried.status, outcome=outcome, seconds=round(seconds, 4), model=record.model,
            prompt_tokens=record.prompt_tokens, cached_tokens=record.cached_tokens, new_tokens=record.new_tokens,
            first_token_seconds=record.first_token_seconds, finish_reasons=record.finish_reasons, error=record.error,
            prompt=record.prompt,
        )  # fmt: skip


class _Carried:
    """One request on its way: bounds its body in size and time, and remembers the status of the answer."""

    def __init__(self, service: Service, receive: Receive, send: Send, number: str) -> None:
        self.status: int | None = None
        self.held = 0
        self._service, self._receive, self._send, self._number = service, receive, send, number
        self._deadline = asyncio.get_running_loop().time() + SEND_SECONDS
        self._whole = False

    async def receive(self) -> Message:
        """Receive a part of the body; behind the last, wait for the client to go."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408, f"the body did not come within {SEND_SECONDS:g} s", code="timeout", headers={"Connection": "close"}
            ) from None
        if message["type"] == "http.disconnect":
            raise ApiError(GONE, "the client went away", code="gone")
        size = len(message.get("body", b""))
        self.held += size
        self._service.held_bytes += size
        if self.held > MAX_BODY:
            raise _too_large()
        if self._service.held_bytes > MAX_HELD:
            raise ApiError(503, "too many long requests at once; try again later", code="overloaded")
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._number.encode())]
        await self._send(message)


def _too_large() -> ApiError:
    return ApiError(
        413, f"the body has more than {MAX_BODY >> 20} MiB", code="too_large", headers={"Connection": "close"}
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _given_key(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    return value.strip().encode() if scheme.lower() == "bearer" else b""
