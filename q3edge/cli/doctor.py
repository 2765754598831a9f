"""`q3edge doctor`: what this machine and installation have, and whether it works."""

from __future__ import annotations

import click

import q3edge
from q3edge.cli.console import emit_json, show
from q3edge.cli.options.common import json_option
from q3edge.errors import ResourceError


@click.command(short_help="Tell what this machine and installation have, and what works.")
@json_option
def doctor(as_json: bool) -> None:
    """Tell what this machine and this installation have, and whether all that is needed works.

    CPU, memory, onnxruntime, q3edge's own kernels with a small test of each, optional parts with the command that
    installs each, and the folder of what is kept. Exit code 4: something is broken. Nothing is changed.
    """
    from q3edge.cli.tables.machine import diagnosis_text

    found = q3edge.doctor()
    if as_json:
        emit_json(found.to_json())
    else:
        show(diagnosis_text(found))
    if found.problems:
        raise ResourceError("; ".join(found.problems))
