"""Child process that renders chat templates, which are untrusted. Run as a script, never imported.

Defines the sandbox: jinja2's immutable sandbox, a memory limit, no environment. The parent (`chat_template`) keeps the
deadline and kills this process. A request is {"template", "messages", "variables"}, answered by {"text"}, {"raised"}
(the template's own message) or {"error"}.
"""

from __future__ import annotations

import json
import signal
import sys
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY_LIMIT = 512 * 2**20
_MAX_OUTPUT = 16 * 2**20  # characters


class _RaisedByTemplateError(Exception):
    """The template called raise_exception."""


def main() -> None:
    """Serve requests from stdin until it closes."""
    from q3edge.machine.worker_script import serve

    # A worker serves one template. Its compiled form is code and constants: every render makes a context of its own,
    # and the sandbox lets no template write to what renders share (globals, functions, the environment).
    compiled = lru_cache(maxsize=1)(_environment().from_string)
    serve(partial(_render, compiled), memory=_MEMORY_LIMIT)


def _render(compiled: Callable[[str], Template], request: dict[str, Any]) -> dict[str, Any]:
    pieces, size = [], 0
    try:
        for piece in compiled(request["template"]).generate(messages=request["messages"], **request["variables"]):
            size += len(piece)
            if size > _MAX_OUTPUT:
                return {"error": f"wrote more than {_MAX_OUTPUT} characters"}
            pieces.append(piece)
        text = "".join(pieces)
        text.encode("utf-8")  # lone surrogates end here, not in the tokenizer
        return {"text": text}
    except _RaisedByTemplateError as error:
        return {"raised": str(error)}
    except MemoryError:
        return {"error": f"needed more than {_MEMORY_LIMIT >> 20} MiB of memory"}
    except Exception as error:  # any error of an untrusted template
        return {"error": f"{type(error).__name__}: {error}"}


def _environment() -> ImmutableSandboxedEnvironment:
    """Sandbox with the options, filters, functions and tags that transformers gives chat templates."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """Tag `{% generation %}`, which marks the assistant's tokens for training; its body is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON text without jinja2's HTML escapes, which models were not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _RaisedByTemplateError(message)


def _strftime_now(text: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(text)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends an answer, not the conversation
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    main()
