"""`run_server`: a server from its start to its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from q3edge.errors import ResourceError, UsageError
from q3edge.server import log
from q3edge.server.app import make_app
from q3edge.server.connection import Connection, most_sockets
from q3edge.server.limits import IDLE_SECONDS, MAX_CONNECTIONS, MAX_HEADER
from q3edge.server.models import Models
from q3edge.server.options import ServerOptions
from q3edge.server.service import Service

_DRAIN_SECONDS = 7.0  # for running answers, once the server is told to end
_CLOSE_SECONDS = 2  # for their last events
_TICK = 0.05


def run_server(options: ServerOptions, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; running answers then have seven seconds to end. A second signal waits for none.

    `on_ready` is given the address, once requests are taken and the first model is open. InputError: a folder is no
    model. ResourceError: the port is in use. UsageError: a host that this machine has not.
    """
    with _bound(options.host, options.port) as listener:
        asyncio.run(_serve(options, listener, on_ready))


async def _serve(options: ServerOptions, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    _log_as_json()
    service = Service(options, Models(options))
    server = _Server(
        uvicorn.Config(
            make_app(service), http=Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=_CLOSE_SECONDS, backlog=min(MAX_CONNECTIONS, most_sockets() // 2),
            h11_max_incomplete_event_size=MAX_HEADER,
        )
    )  # fmt: skip
    ending = asyncio.Event()
    with _signals(ending, service):
        serving = asyncio.create_task(server.serve([listener]))
        opening = asyncio.create_task(_open_first(service, listener, on_ready))
        try:
            await asyncio.wait({opening, asyncio.create_task(ending.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
            await ending.wait()
            await _drain(service)
        finally:
            server.should_exit = True
            await serving
            await service.close()
            log.write("ended")


async def _open_first(service: Service, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    await service.open_first()
    host, port = listener.getsockname()[:2]
    on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")


async def _drain(service: Service) -> None:
    """Take no new requests, and let running answers end."""
    service.draining = True
    log.write("ending", answers=service.live)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DRAIN_SECONDS
    while service.live and not service.hurried and loop.time() < deadline:
        await asyncio.sleep(_TICK)
    service.end_answers()


@contextmanager
def _signals(ending: asyncio.Event, service: Service) -> Iterator[None]:
    """Make SIGTERM and Ctrl-C end the server; told again, running answers end at once."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if ending.is_set():
            service.end_answers()
        ending.set()

    def handle(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(end)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to `_signals`."""
        yield


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS) as listener:
            yield listener
    except socket.gaierror as error:
        raise UsageError(f"host = {host}: {error.strerror}; give an address of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ResourceError(f"port {port} of {host} is in use by another program; give another --port") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ResourceError(f"port {port} of {host}: {os.strerror(error.errno)}; give one above 1023") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"host = {host}: this machine has no such address") from None
        raise


def _log_as_json() -> None:
    """Have warnings of uvicorn and asyncio written as the server's own lines."""
    handler = log.JsonHandler()
    for name in ("uvicorn", "asyncio", "sse_starlette"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(logging.ERROR)
