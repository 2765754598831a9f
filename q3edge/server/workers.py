"""`Workers`: functions that take their time, in threads that nobody waits for who does not want their result.

The executors of the standard library, and those made on them, are waited for when the process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """A few threads at a time, for one event loop."""

    def __init__(self, most: int) -> None:
        """Allow `most` at once."""
        self._places = asyncio.Semaphore(most)

    async def run(self, function: Callable[[], Result]) -> Result:
        """Wait for the result of a function, which keeps its place until it returns, though its caller has left."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Result] = loop.create_future()

        def end(tell: Callable[[Any], None], outcome: object) -> None:
            self._places.release()
            if not found.done():
                tell(outcome)

        def work() -> None:
            tell: Callable[[Any], None]
            outcome: object
            try:
                tell, outcome = found.set_result, function()
            except BaseException as error:
                tell, outcome = found.set_exception, error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, tell, outcome)

        try:
            Thread(target=work, name="prepare", daemon=True).start()
        except BaseException:  # no further thread is to be had
            self._places.release()
            raise
        return await found
