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
@click.option(
    "--base-model", metavar="ORG/NAME", help="Checkpoint that it was made from (default: as far as it is known)."
)
@click.option(
    "--license",
    "license_name",
    metavar="NAME",
    help="Licence on the card (default: the base model's, where it is known).",
)
@json_option
def push(
    folder: Path, repository: str, private: bool, base_model: str | None, license_name: str | None, as_json: bool
) -> None:
    """Upload the ONNX model in DIR to ORG/NAME on the hub.

    Every file is checked first; only the model's own are sent, the README with front matter: base model, licence, tags
    and what was measured. Log in once with `hf auth login`. The same command goes
    on where a stopped one was.
    """
    size = q3edge.push(folder, repository, private=private, base_model=base_model, license_name=license_name)
    if as_json:
        emit_json({"repository": repository, "bytes": size})
    else:
        say(f'pushed {size / 1e6:.1f} MB to {repository}; try: q3edge run {repository} "Hello"')
