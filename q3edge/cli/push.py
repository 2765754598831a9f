"""`q3edge push`: upload a finished model to the hub."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json
from q3edge.cli.options.common import FOLDER, json_option
from q3edge.terminal import say


@click.command(short_help="Upload it to the hub.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@json_option
def push(folder: Path, repository: str, private: bool, as_json: bool) -> None:
    """Upload the ONNX model in DIR to ORG/NAME on the hub.

    Every file is checked first; only the model's own are sent. Log in once with `hf auth login`. The same command goes
    on where a stopped one was.
    """
    size = q3edge.push(folder, repository, private=private)
    if as_json:
        emit_json({"repository": repository, "bytes": size})
    else:
        say(f'pushed {size / 1e6:.1f} MB to {repository}; try: q3edge run {repository} "Hello"')
