"""`q3edge embed`: vectors of texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json
from q3edge.cli.options.common import FILE, MODEL_FOLDER, json_option, kernels_option, number_option, threads_option
from q3edge.cli.standard_streams import is_terminal, stdin_lines
from q3edge.errors import UsageError
from q3edge.plain_line import typed
from q3edge.terminal import say


@click.command(short_help="Make vectors of texts, for search.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--query", is_flag=True, help="The texts ask for others: the model's own prompt goes before each.")
@click.option(
    "--instruction", metavar="TASK", help="They do, and TASK says what for, in place of that prompt; best in English."
)
@number_option("--dimensions", "Numbers in each vector: the first N (default: all).")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write a .npy file, float32 [texts, dimensions].")
@threads_option
@kernels_option
@json_option
def embed(
    folder: Path,
    texts: tuple[str, ...],
    query: bool,
    instruction: str | None,
    dimensions: int | None,
    output: Path | None,
    threads: int | None,
    kernels: str | None,
    as_json: bool,
) -> None:
    """Make a vector of each TEXT with the embedding model in DIR, a folder or the id of one on the hub.

    Without TEXT, each line of standard input is one. A vector is a line of numbers on stdout. Its length is 1, so the
    dot product of two is their cosine.
    """
    if output is not None and as_json:
        raise UsageError("--output writes a file and --json prints: give one")
    if not texts and is_terminal():
        raise UsageError(f'no text: q3edge embed {typed(folder)} "TEXT", or a text a line on standard input')
    lines: Iterable[str] = texts or (line.rstrip("\r\n") for line in stdin_lines())
    with q3edge.load_embedding(folder, threads=threads, kernels=kernels) as model:
        vectors = model.embed_each(lines, query=query, instruction=instruction, dimensions=dimensions)
        if output is not None:
            import numpy as np

            from q3edge.storage.whole_files import written_whole

            found = np.stack(list(vectors) or [np.empty(0, np.float32)])
            with written_whole(output) as file:
                np.save(file, found)
            say(f"wrote {output}: {len(found)} x {found.shape[1]}")
        elif as_json:
            found_lists = [vector.tolist() for vector in vectors]
            emit_json({"dimensions": dimensions or model.dimensions, "embeddings": found_lists})
        else:
            for vector in vectors:
                click.echo(" ".join(f"{number:.9g}" for number in vector.tolist()))
