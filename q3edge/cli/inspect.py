"""`q3edge inspect`: content of a checkpoint and predicted cost of each format."""

from __future__ import annotations

import click

import q3edge
from q3edge.cli.console import emit_json, show, show_notices
from q3edge.cli.options.common import MODEL, adapter_option, json_option


@click.command(short_help="Show what a model is, and the predicted cost of each format.")
@click.argument("model", type=MODEL)
@adapter_option
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show what MODEL (a folder or a hub id) is, and the predicted size, RAM, speed and time of each format.

    Only headers are read; no weights are loaded and nothing is written.
    """
    from q3edge.cli.tables.tables import inspection_table

    inspection = q3edge.inspect(model)
    show_notices(inspection.notices)
    if as_json:
        emit_json(inspection.to_json())
    else:
        show(inspection_table(inspection))
