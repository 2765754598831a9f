"""`ApiError`: an answer in the shape of OpenAI's errors, and how errors of the library become one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.responses import JSONResponse

from q3edge.errors import InputError, Q3EdgeError, ResourceError, UsageError
from q3edge.plain_line import plain_line
from q3edge.runtime.generation.request import ContextError
from q3edge.runtime.generation.setting_table import SETTINGS

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_FOLDERS = re.compile(r"(?<!\S)(?:/[^/\s:]+)*/(?=[^/\s:]+: )")  # of a file that a message begins with
# Fields whose names differ from those of the settings, with which messages begin.
_FIELDS = {
    "schema": "response_format", "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "stop_strings": "stop",
}  # fmt: skip
_SETTING = re.compile(rf"(?:{'|'.join(SETTINGS)}|response_format[\w.]*|tools|tool_choice)(?=[ :=])")
GONE = 499  # status of an answer that nobody reads, in logs alone
RETRY_SECONDS = 2  # after which a client that found no room may try again


class ApiError(Exception):
    """Refusal or failure of a request: HTTP status, one line, the field it is about, a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, plain_line(message), param, code
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    @property
    def logged(self) -> str:
        """What a log may hold: a refusal's message may repeat what the client sent."""
        if self.status >= 500:
            return self.message
        return f"{self.code or self.status}{f' ({self.param})' if self.param else ''}"

    @property
    def unforeseen(self) -> bool:
        """Whether the log needs the trace of what led to it."""
        return self.code in ("internal_error", "unavailable")

    def body(self) -> dict[str, Any]:
        """JSON object of the answer."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Answer that says it."""
        return JSONResponse(self.body(), self.status, self.headers)


def bad_field(param: str, problem: str) -> ApiError:
    """Make the refusal of one field's value."""
    return ApiError(400, f"{param}: {problem}", param=param, code="invalid_value")


def shutting_down() -> ApiError:
    """Make the refusal of a server that ends."""
    return ApiError(503, "the server is shutting down", code="shutting_down")


def as_api_error(error: Exception, param: str | None = None) -> ApiError:
    """Make the answer for any error: 400 for what was asked, 503 where memory is short, else 500 without details.

    `param`: the field that an error of what was asked is about.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextError):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    if isinstance(error, UsageError | InputError):
        text = _FOLDERS.sub("", str(error)).removesuffix("use --raw").rstrip(",; ")
        named = _SETTING.match(text)
        return ApiError(400, text, param=_FIELDS.get(named[0], named[0]) if named else param, code="invalid_value")
    if isinstance(error, ResourceError | MemoryError):
        return ApiError(503, "the server lacks what this request needs now; its log has more", code="unavailable")
    return ApiError(500, "internal error; the server's log has more", code="internal_error")


@contextmanager
def about(param: str) -> Iterator[None]:
    """Turn errors of the library into refusals of the field `param`."""
    try:
        yield
    except Q3EdgeError as error:
        raise as_api_error(error, param) from error
