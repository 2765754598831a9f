"""`q3edge rerank`: documents by how far they answer a query."""

from __future__ import annotations

from pathlib import Path

import click

import q3edge
from q3edge.cli.console import emit_json
from q3edge.cli.options.common import MODEL_FOLDER, json_option, kernels_option, threads_option
from q3edge.cli.standard_streams import is_terminal, stdin_lines
from q3edge.errors import UsageError
from q3edge.plain_line import plain_line, typed


@click.command(short_help="Order documents by how far they answer a query.")
@click.argument("folder", metavar="DIR", type=MODEL_FOLDER)
@click.argument("query")
@click.argument("documents", metavar="[DOCUMENT]...", nargs=-1)
@click.option("--instruction", metavar="TASK", help="What is looked for, in a sentence, best in English.")
@threads_option
@kernels_option
@json_option
def rerank(
    folder: Path,
    query: str,
    documents: tuple[str, ...],
    instruction: str | None,
    threads: int | None,
    kernels: str | None,
    as_json: bool,
) -> None:
    """Score each DOCUMENT by how far it answers QUERY, with the reranker in DIR, a folder or the id of one on the hub.

    Without DOCUMENT, each line of standard input is one. On stdout the best come first, each behind its score: the
    probability that the model answers "yes".
    """
    if not documents and is_terminal():
        example = f'q3edge rerank {typed(folder)} "QUERY" "DOCUMENT"'
        raise UsageError(f"no document: {example}, or a document a line on standard input")
    texts = list(documents) or [line.rstrip("\r\n") for line in stdin_lines()]
    with q3edge.load_reranker(folder, threads=threads, kernels=kernels) as model:
        scores = model.score(query, texts, instruction=instruction)
    order = sorted(range(len(texts)), key=lambda place: -scores[place])
    if as_json:
        emit_json({"results": [{"index": place, "relevance_score": scores[place]} for place in order]})
        return
    for place in order:
        click.echo(f"{scores[place]:.6f}\t{plain_line(texts[place])}")
