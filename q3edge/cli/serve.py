"""`q3edge serve`: models behind an HTTP server."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import click

import q3edge
from q3edge.cli.options.common import (
    FILE,
    FOLDER,
    MODEL_FOLDER,
    kernels_option,
    number_option,
    offload_option,
    threads_option,
)
from q3edge.defaults import MAX_BATCH, MAX_QUEUE, PORT


@click.command(short_help="Serve models over HTTP, as OpenAI's API does.")
@click.argument("folders", metavar="DIR...", type=MODEL_FOLDER, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need a key.")
@number_option("--port", "Port to listen at; 0: a free one.", PORT)
@click.option("--api-key-file", type=FILE, metavar="FILE", help="Keys, one a line: each client has to send one.")
@click.option("--name", "names", multiple=True, help="The model's name in requests (default: its folder's; repeat).")
@number_option("--max-batch", "Answers that a model computes at once.", MAX_BATCH)
@number_option("--max-queue", "Answers that wait for it; further ones are refused.", MAX_QUEUE)
@number_option("--max-new-tokens", "Longest answer to a request that names no length (default: the model's own limit).")
@number_option("--context", "Most tokens of a prompt and its answer (default: the model's own).")
@click.option("--kv-memory", metavar="SIZE", help="For keys and values of a model (default: half of the free memory).")
@click.option("--memory-limit", metavar="SIZE", help="For all models open at once (default: the free memory).")
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Name clients use (repeat).")
@click.option("--allow-origin", "allow_origins", multiple=True, help="Web site that may use it (repeat).")
@click.option("--prefix-dir", type=FOLDER, metavar="DIR", help="Where clients may save prefixes (default: nowhere).")
@click.option("--log-prompts", is_flag=True, help="Write what clients send into the log.")
@offload_option
@threads_option
@kernels_option
def serve(folders: tuple[Path, ...], **options: Any) -> None:
    """Serve the ONNX models in DIR..., folders or ids of models on the hub, until Ctrl-C or SIGTERM.

    The first line on stdout says the address, once requests are taken; logs go to stderr, a JSON object a line. Several
    models are opened when they are first asked for. docs/serving.md has the endpoints and what they take.
    """

    def ready(address: str) -> None:
        click.echo(f"ready: {address}/v1")

    q3edge.serve(folders, on_ready=ready, **{name: value for name, value in options.items() if value not in (None, ())})
    _leave_threads()


def _leave_threads() -> None:
    """End the process here if a thread still computes what nobody waits for: a library under it may abort otherwise."""
    if any(thread.daemon and thread is not threading.current_thread() for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
