"""`Connection`: uvicorn's HTTP/1.1 connection, with limited time for header fields, and refusals in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from q3edge.server.errors import ApiError
from q3edge.server.limits import SEND_SECONDS


class Connection(H11Protocol):
    """One connection. While no request is being carried out, the next one's header has to come in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP: 431 where the header is too long."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
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
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._cancel()
        elif self._late is None:
            self._late = self.loop.call_later(SEND_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
