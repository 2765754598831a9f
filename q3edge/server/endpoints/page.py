"""GET /: a page to chat on, from files of the package; what they hold is public, so that they can ask for a key."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = files("q3edge.server") / "page"
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}  # fmt: skip


def _route(path: str, name: str) -> Route:
    """The route of one file, which is read once."""
    data = (_FOLDER / name).read_bytes()
    kind = _TYPES[name[name.rindex(".") :]]

    async def give(request: Request) -> Response:
        return Response(data, headers=_HEADERS, media_type=kind)

    return Route(path, give)


_NAMES = sorted(file.name for file in _FOLDER.iterdir() if file.name.endswith(tuple(_TYPES)))
ROUTES = [_route("/", "index.html"), *(_route(f"/page/{name}", name) for name in _NAMES if name != "index.html")]
