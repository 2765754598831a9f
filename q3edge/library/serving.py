"""The public function that serves finished models: serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from q3edge.defaults import MAX_BATCH, MAX_QUEUE, PORT
from q3edge.errors import UsageError
from q3edge.library.arguments import public
from q3edge.library.requests import PathLike, PathLikes, artifact_at, parse_size, paths, words


@public()
def serve(
    folders: PathLikes,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    api_key_file: PathLike | None = None,
    names: str | Sequence[str] | None = None,
    allow_hosts: str | Sequence[str] | None = None,
    allow_origins: str | Sequence[str] | None = None,
    max_batch: int = MAX_BATCH,
    max_queue: int = MAX_QUEUE,
    max_new_tokens: int | None = None,
    context: int | None = None,
    kv_memory: str | int | None = None,
    memory_limit: str | int | None = None,
    threads: int | None = None,
    log_prompts: bool = False,
    prefix_dir: PathLike | None = None,
    offload: bool | None = None,
    kernels: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve ONNX models, folders or ids on the hub, over HTTP as OpenAI's API does, until SIGTERM or Ctrl-C.

    host, port: where to listen (port 0: a free one); only programs of this machine reach the default. api_key_file: a
    file with keys, one a line, of which a client has to send one; other hosts need it. names: of the models, for
    requests (None: those of the folders). allow_hosts: further names by which clients reach the server; allow_origins:
    of other web pages that may use it. max_batch: answers that a model computes at once; max_queue: that wait for it.
    max_new_tokens: of answers to requests that name no length; context: of prompt and answer together. kv_memory: for
    the keys and values of one model; memory_limit: for all models that are open at once ("8GB"). on_ready: called with
    the address once requests are taken. Logs to stderr, a JSON object a line; log_prompts: with what clients send.
    prefix_dir: a folder, made if there is none, where clients may save prefixes, which are restored from it (None: they
    may not). offload: leave the experts of mixtures on the disk (None: where they would not fit in memory).
    kernels: as for `load`. Raises InputError for a folder that is no model or a bad file of keys, ResourceError for a
    port in use, UsageError for another host without keys.
    """
    from q3edge.server.options import ServerOptions, made_folder, named, read_keys
    from q3edge.server.serving import run_server

    found = tuple(artifact_at(folder) for folder in paths(folders))
    if not found:
        raise UsageError("folders is empty; give at least one model")
    options = ServerOptions(
        named(found, words(names or ())), host, port, () if api_key_file is None else read_keys(Path(api_key_file)),
        words(allow_hosts or ()), words(allow_origins or ()), max_batch, max_queue, max_new_tokens, context,
        None if kv_memory is None else parse_size(kv_memory, "kv_memory"),
        None if memory_limit is None else parse_size(memory_limit, "memory_limit"), threads, log_prompts,
        None if prefix_dir is None else made_folder(Path(prefix_dir)), offload, kernels,
    )  # fmt: skip
    run_server(options, on_ready or (lambda address: None))
