"""Types and helpers for options, and the options of most commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from click.shell_completion import CompletionItem

from q3edge.formats import EXPERT_OPERATORS
from q3edge.library.arguments import ARGUMENTS, Number

Command = TypeVar("Command", bound=Callable[..., Any])
Element = TypeVar("Element", str, int, float, "int | None")


class _FolderOrId(click.Path):
    """Type of a folder or a hub id, checked by whoever opens it: shells complete folders."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete folders."""
        return [CompletionItem(incomplete, type="dir")]


_ADAPTER = "Merge an adapter (LoRA, as peft saves it) into MODEL while it is read."
PATH = click.Path(path_type=Path)
MODEL = _FolderOrId(readable=False)  # a str
MODEL_FOLDER = _FolderOrId(readable=False, path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def number_option(
    flag: str, description: str, default: float | None = None, metavar: str = "N"
) -> Callable[[Command], Command]:
    """Make a flag for the argument of the same name of a public function, in the argument's range."""
    argument = flag.removeprefix("--").replace("-", "_")
    return click.option(
        flag,
        type=number(argument),
        default=default,
        show_default=default is not None,
        metavar=metavar,
        help=description,
    )


def number(argument: str) -> click.IntRange | click.FloatRange:
    """Type of a flag with the range of a public function's argument."""
    kind = ARGUMENTS[argument]
    assert isinstance(kind, Number), argument
    if kind.whole:
        return click.IntRange(_bound(kind.low), _bound(kind.high))
    return click.FloatRange(kind.low, kind.high, min_open=kind.above)


def _bound(value: float | None) -> int | None:
    return None if value is None else int(value)


class CommaSeparated(click.ParamType["tuple[Element, ...]"], Generic[Element]):
    """Type of a flag a,b,c -> (a, b, c), at least one, each of type `element`; `example`: for the error."""

    name = "list"

    def __init__(self, element: Callable[[str], Element], example: str) -> None:
        self._element: Callable[[str], Element] = element
        self._example = example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Element, ...]:
        """Convert the flag's text to a tuple; fails with the example if a part is not of the type."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        try:
            return tuple(map(self._element, parts or [""]))
        except ValueError:
            self.fail(f"{value!r}: expected values such as {self._example}", param, ctx)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator that adds all `options`, listed by --help in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of text.")
last_logits_option = click.option(
    "--last-logits",
    is_flag=True,
    help="Give logits of the last position only: less memory for prompts where a runtime cannot ask for it.",
)
experts_option = click.option(
    "--experts",
    type=click.Choice(EXPERT_OPERATORS),
    default="qmoe",
    show_default=True,
    help="Operators of a mixture of experts: onnxruntime's QMoE, or an MLP for each expert, for runtimes without it.",
)
experts_per_token_option = number_option(
    "--experts-per-token",
    "Experts each token goes to, fewer than a mixture of experts was trained with: faster, and further from it.",
    metavar="K",
)


def adapter_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flag --adapter to a command, whose argument `model` becomes MODEL+DIR with it."""

    @click.option(
        "--adapter",
        type=FOLDER,
        metavar="DIR",
        help="Merge an adapter (LoRA, as peft saves it) into MODEL while it is read.",
    )
    @wraps(command)
    def with_adapter(model: str, adapter: Path | None, **options: Any) -> None:
        command(model=model if adapter is None else f"{model}+{adapter}", **options)

    return with_adapter


scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Let the workers of a Dask scheduler do what is independent: tcp://host:8786 (docs/distributed.md).",
)
output_option = click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Folder to write.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace DIR if q3edge wrote it before.")
offload_option = click.option(
    "--offload/--no-offload",
    default=None,
    help="Leave a mixture's experts on the disk, and read those that a token needs (default: where they would not fit "
    "in memory).",
)
kernels_option = click.option(
    "--kernels",
    metavar="NAME",
    help="Whose kernels compute the model: onnxruntime, q3edge, q3edge:SET with an instruction set, or auto: q3edge's "
    "where they are built and fast on this CPU (default: what Q3EDGE_KERNELS says, else auto).",
)
threads_option = number_option("--threads", "Threads for onnxruntime (default: the physical cores at hand).")
