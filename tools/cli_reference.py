"""Write docs/cli.md, the reference of every command, from what click knows: `python -m tools.cli_reference`.

Renews the table of generation settings in docs/library.md too.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

import q3edge
from q3edge.cli.main import cli
from q3edge.runtime.generation.setting_table import SETTINGS
from q3edge.runtime.generation.settings import GenerationSettings

LIBRARY = Path(__file__).resolve().parents[1] / "docs" / "library.md"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
COMMAND = "python -m tools.cli_reference"
_FUNCTION_OF = {  # the others are called as the function
    "list": "list_models", "report": "make_report", "run": "load", "chat": "load", "embed": "load_embedding",
    "rerank": "load_reranker", "cache": "list_cache",
}  # fmt: skip

_VALUES = {  # where what is valid says less than the kind
    "ids": "a set of token ids", "texts": "a text, or a list", "biases": "a dict of token ids and numbers",
    "text": "a text", "schema": "a dict, or JSON text",
}  # fmt: skip


def reference() -> str:
    """The whole page, Markdown."""
    parts = [
        "# Command-line reference",
        f"Made from the commands themselves by `{COMMAND}`, and checked by the tests: do not edit. "
        "[usage.md](usage.md) explains what the commands are for, [library.md](library.md) the functions they call.",
        _block(_usage("q3edge", "[OPTIONS] COMMAND [ARGS]..."), cli.help, cli.epilog),
        _table(cli.params),
    ]
    for name in sorted(cli.commands):
        parts += _command(name, cli.commands[name])
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: click.Command) -> list[str]:
    arguments = [
        param.metavar or str(param.name).upper() for param in command.params if isinstance(param, click.Argument)
    ]
    usage = _usage(f"q3edge {name}", " ".join(["[OPTIONS]", *arguments]))
    return [
        f"## q3edge {name}",
        _block(usage, command.help),
        f"In Python: `q3edge.{_function(name, command)}`.",
        _table(command.params),
    ]


def _function(name: str, command: click.Command) -> str:
    function = _FUNCTION_OF.get(name) or getattr(command.callback, "__name__", "")
    assert function in q3edge.__all__, f"{name}: calls no public function"
    return function


def _usage(command: str, arguments: str) -> str:
    return f"Usage: {command} {arguments}"


def _block(*texts: str | None) -> str:
    return "\n".join(["```text", "\n\n".join(inspect.cleandoc(text) for text in texts if text), "```"])


def _table(params: list[click.Parameter]) -> str:
    options = [param for param in params if isinstance(param, click.Option)]
    rows = ["| option | default | what it does |", "|---|---|---|"]
    return "\n".join([*rows, *map(_row, options)])


def _row(option: click.Option) -> str:
    names = ", ".join(option.opts) + "".join(f" / {name}" for name in option.secondary_opts)
    value = "" if option.is_flag or option.count else f" {_metavar(option)}"
    text = " ".join(part for part in (option.help, _range(option), _repeated(option)) if part)
    return f"| `{names}{value}` | {_default(option)} | {text} |"


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "\\|".join(map(str, option.type.choices))
    return option.type.name.upper()


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    return f"`{option.default}`" if option.show_default else ""


def _range(option: click.Option) -> str:
    kind = option.type
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    if kind.max is not None:
        return f"From {kind.min:g} to {kind.max:g}."
    return f"{'Above' if kind.min_open else 'At least'} {kind.min:g}."


def _repeated(option: click.Option) -> str:
    return "May be given several times." if option.multiple else ""


def with_settings_table(page: str) -> str:
    """The library's page with its table of generation settings as the code has them."""
    rows = ["| setting | flag of `run` and `chat` | values | what it does |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        default = getattr(GenerationSettings(), name)
        plain = "none" if default in (None, (), frozenset()) else f"`{default}`"
        values = _VALUES.get(setting.kind, setting.expected)
        flag = f"`{setting.flag}`" if setting.flag else ""
        rows.append(f"| `{name}` | {flag} | {values}; {plain} | {setting.description} |")
    table = "\n".join(rows) + "\n"
    return re.sub(r"\| setting \|.*\n(?:\|.*\n)+", lambda _: table, page)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    LIBRARY.write_text(with_settings_table(LIBRARY.read_text(encoding="utf-8")), encoding="utf-8")
