"""The server's log: a JSON object a line on stderr, without texts of requests and without keys."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any


def write(event: str, **fields: Any) -> None:
    """Write one line: the time (UTC), what happened, and fields that are not None; nothing where nobody takes it."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    line |= {name: value for name, value in fields.items() if value is not None}
    with suppress(OSError, ValueError, AttributeError):  # a full disk, or closed: no reason to answer nobody
        sys.stderr.write(json.dumps(line, ensure_ascii=True, default=str) + "\n")
        sys.stderr.flush()


def failure(number: str, error: Exception) -> None:
    """Write the trace of an error that nobody foresaw, in the request with this number."""
    write("internal error", id=number, trace="".join(traceback.format_exception(error)))


class JsonHandler(logging.Handler):
    """Handler that writes what libraries log as such lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line for `record`."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        write("library", level=record.levelname.lower(), logger=record.name, message=record.getMessage(), trace=trace)
