"""`q3edge list`: the finished models at hand."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import FOLDER, json_option
from q3edge.terminal import say


@click.command("list", short_help="List the models that run can take.")
@click.argument("folder", metavar="[DIR]", type=FOLDER, default=".")
@json_option
def list_models(folder: Path, as_json: bool) -> None:
    """List the ONNX models that `run` can take: in DIR (default: here) and in the hub's cache.

    Looks in DIR and two levels below it, at manifests alone; nothing is downloaded.
    """
    from q3edge.cli.tables.tables import models_table

    found = q3edge.list_models(folder)
    if as_json:
        emit_json({"models": [model.to_json() for model in found]})
    elif found:
        show(models_table(found))
    else:
        say("no models here or in the hub's cache; make one: q3edge demo, or q3edge build MODEL -o DIR")
