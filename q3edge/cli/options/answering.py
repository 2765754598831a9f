"""Options of the commands that answer, `run` and `chat`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from q3edge.cli.options.common import FILE, FOLDER, Command, kernels_option, offload_option, threads_option, together
from q3edge.runtime.generation.setting_table import SETTINGS

_TYPES: Mapping[str, type] = {"whole": int, "number": float, "texts": str, "text": str}


def _settings_options() -> Callable[[Command], Command]:
    """Flag for each setting of generation that has one."""
    return together(
        *(
            click.option(
                setting.flag, name, type=FILE if setting.from_file else _TYPES[setting.kind], metavar=setting.metavar,
                help=setting.description, multiple=setting.kind == "texts",
            )
            for name, setting in SETTINGS.items()
            if setting.flag is not None
        )
    )  # fmt: skip


cache_file_options = together(
    click.option(
        "--cache-file",
        type=FILE,
        metavar="FILE",
        help="Restore the keys and values in FILE, if it exists, and save those of prompt and answer there: what the "
        "next prompt has in common with them is not computed again.",
    ),
    click.option("--cache-file-ro", is_flag=True, help="Leave the FILE of --cache-file as it is."),
)

answering_options = together(
    click.option("--system", metavar="TEXT", help="System prompt: what the model is told before the conversation."),
    click.option("--think/--no-think", "thinking", default=None, help="Let the model reason first (default: its own)."),
    _settings_options(),
    click.option(
        "--chat-template",
        type=FILE,
        metavar="FILE",
        help="A Jinja file to use in place of the model's own chat template.",
    ),
    click.option(
        "--draft",
        type=FOLDER,
        metavar="DIR",
        help="A smaller model of the same family to propose draft tokens; this one checks them. The text stays as "
        "good.",
    ),
    click.option(
        "--no-speculate",
        is_flag=True,
        help="Compute every token by itself: no draft tokens from what the text repeats.",
    ),
    offload_option,
    threads_option,
    kernels_option,
)
