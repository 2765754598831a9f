"""`q3edge inspect`: what a checkpoint holds and what each format would cost, before doing anything."""

from __future__ import annotations

import click

from q3edge.cli.console import emit_json, json_option, show_notices


@click.command()
@click.argument("model")
@json_option
def inspect(model: str, as_json: bool) -> None:
    """Show what MODEL (a folder or a hub id) is, and the predicted size, RAM, speed and time of each format.

    Only headers are read; no weights are loaded and nothing is written.
    """
    from q3edge.cli.tables.tables import inspection_table
    from q3edge.pipeline.inspect import inspect_model

    inspection = inspect_model(model)
    show_notices(inspection.notices)
    if as_json:
        emit_json(inspection.to_json())
    else:
        click.echo(inspection_table(inspection))
