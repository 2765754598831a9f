"""`Connection`: uvicorn's HTTP/1.1 connection, with limits of number and time, and refusals in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from q3edge.server.errors import ApiError
from q3edge.server.limits import MAX_CONNECTIONS, READ_SECONDS, SEND_SECONDS

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]


def most_sockets() -> int:
    """Number of connections that may be open, those of which each request is refused included.

    Half of the files that the process may have open are left for everything else.
    """
    if resource is None:
        return 2 * MAX_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2 * MAX_CONNECTIONS if allowed == resource.RLIM_INFINITY else min(2 * MAX_CONNECTIONS, allowed // 2)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    refused = ApiError(
        503, "too many connections at once; try again later", code="overloaded", headers={"Connection": "close"}
    )
    await refused.response()(scope, receive, send)


class Connection(H11Protocol):
    """One connection. While no request is being carried out, what comes has to be the next one's header, in time.

    That holds for the rest of a body, too, whose request was refused before. What is sent has to be read.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request; refuse it where there are too many connections, and hang up beyond that."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.app = _full
        if len(self.connections) > most_sockets():
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, as long as it reads something now and then."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self._check_read, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the client has not read all."""
        super().timeout_keep_alive_handler()
        if self._unread is None and self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP: 431 where the header is too long."""
        error = sys.exc_info()[1]
        if self.cycle is not None and not self.cycle.response_complete:  # its body turned out to be none
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        status = hint if hint < 500 else 400  # of codings that nobody has to know: the client's mistake
        body = json.dumps(ApiError(status, f"not a valid HTTP request: {error}", code="invalid_http").body()).encode()
        fields = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        try:
            for event in (
                h11.Response(status_code=status, headers=fields, reason=HTTPStatus(status).phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer had begun already
            pass
        self.transport.close()

    def _watch(self) -> None:
        """Start the timer where a header is due, stop it where one has come."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            self._cancel()
        elif self._late is None:
            self._late = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def _check_read(self, before: int) -> None:
        """Hang up if nothing was read since there were `before` bytes, else look again later."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._unread = self.loop.call_later(READ_SECONDS, self._check_read, left)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
