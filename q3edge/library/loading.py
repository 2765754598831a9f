"""Public functions that open a finished model: load, load_embedding, load_reranker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from q3edge.defaults import MAX_BATCH
from q3edge.library.arguments import public
from q3edge.library.requests import PathLike, artifact_at, parse_size

if TYPE_CHECKING:
    from q3edge.runtime.embedding_model import EmbeddingModel
    from q3edge.runtime.model import Model
    from q3edge.runtime.reranker import Reranker


@public()
def load(
    path_or_id: PathLike,
    *,
    threads: int | None = None,
    speculate: bool = False,
    draft: PathLike | None = None,
    max_batch: int = MAX_BATCH,
    kv_memory: str | int | None = None,
    deterministic: bool = False,
    chat_template: PathLike | None = None,
    offload: bool | None = None,
    kernels: str | None = None,
) -> Model:
    """Open the ONNX model in the folder `path_or_id`, or with that id on the hub; a context manager.

    Needs no torch. threads: of onnxruntime (None: the physical cores at hand). speculate: take draft tokens from
    repetitions in the text so far; draft: folder of a smaller model that proposes them instead. Either makes an answer
    that is computed alone faster, and the same but for near ties. max_batch: most answers that are computed at once.
    kv_memory: bytes for the keys and values of all, or "2GB"; an answer that may need more is refused (None: half of
    the free memory, which a single answer may exceed). deterministic: each answer is exactly what it is alone, at the
    speed of one after another. chat_template: a Jinja file to use in place of the model's own. offload: leave a
    mixture's experts on the disk, from where those that a token needs are read (None: where they would not fit in
    memory). kernels: that compute its products: "onnxruntime", "q3edge", "q3edge:SET" with an instruction set, or
    "auto": q3edge's where they are built and fast on this CPU (None: what Q3EDGE_KERNELS says, else "auto").
    Raises InputError if a file is missing or unfit, UsageError for a memory too small, offload without experts, or
    kernels that cannot be had.
    """
    from q3edge.runtime.model import Model

    small = None if draft is None else artifact_at(draft)
    return Model.open(
        artifact_at(path_or_id), threads=threads, speculate=speculate, draft=small, max_batch=max_batch,
        kv_memory=None if kv_memory is None else parse_size(kv_memory, "kv_memory"), deterministic=deterministic,
        chat_template=None if chat_template is None else Path(chat_template), offload=offload,
        kernels=kernels,
    )  # fmt: skip


@public()
def load_embedding(path_or_id: PathLike, *, threads: int | None = None, kernels: str | None = None) -> EmbeddingModel:
    """Open the ONNX embedding model in the folder `path_or_id`, or with that id on the hub; a context manager.

    Needs no torch. threads, kernels: as in `load`. Raises InputError if a file is missing or unfit, or the model is
    another, UsageError for kernels that cannot be had.
    """
    from q3edge.runtime.embedding_model import EmbeddingModel

    return EmbeddingModel.open(artifact_at(path_or_id), threads=threads, kernels=kernels)


@public()
def load_reranker(
    path_or_id: PathLike,
    *,
    threads: int | None = None,
    max_batch: int = MAX_BATCH,
    kv_memory: str | int | None = None,
    kernels: str | None = None,
) -> Reranker:
    """Open the ONNX model of a Qwen3-Reranker in the folder `path_or_id`, or with that id on the hub.

    A context manager. Arguments and errors are those of `load`; InputError also if the tokenizer has no yes and no.
    """
    from q3edge.runtime.reranker import Reranker

    memory = None if kv_memory is None else parse_size(kv_memory, "kv_memory")
    return Reranker.open(
        artifact_at(path_or_id), threads=threads, max_batch=max_batch, kv_memory=memory, kernels=kernels
    )
