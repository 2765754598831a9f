"""Inspection of a checkpoint and the cost of each format, from headers alone; no torch, nothing written.

Sizes are exact. RAM, speed and time are predictions (`q3edge.pipeline.predictions`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, count_active_weights, count_weights, tensor_shapes
from q3edge.artifact import Notice
from q3edge.artifact.sentence_files import stated_kind
from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.errors import InputError, UsageError
from q3edge.formats import FLOAT, FORMATS
from q3edge.machine.cpu import slow_block_products
from q3edge.machine.speed import read_bandwidth
from q3edge.pipeline.predictions import Footprint, Prediction, kv_bytes_per_token, predict
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme

ModelKind = Literal["language model", "embedding model", "reranker"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of `q3edge inspect`. `not_possible`: format -> why it does not fit this model.

    active_weights: those that one token makes use of; fewer than all where experts are chosen for it.
    """

    model: str
    config: Qwen3Config
    dtypes: Mapping[str, int]  # stored dtype -> number of tensors
    stored_bytes: int
    weights: int
    active_weights: int
    embedding_weights: int
    kv_bytes_per_token: int
    predictions: tuple[Prediction, ...]
    not_possible: Mapping[str, str]
    kind: ModelKind
    notices: tuple[Notice, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def inspect_model(model: str) -> Inspection:
    """Read the headers of MODEL (folder or hub id) and predict every format."""
    with open_float_model(model) as checkpoint:
        shapes = tensor_shapes(checkpoint.config)
        found, not_possible = footprints(checkpoint.config)
        bandwidth = read_bandwidth()
        return Inspection(
            model=model,
            config=checkpoint.config,
            dtypes=checkpoint.dtype_counts(),
            stored_bytes=checkpoint.stored_bytes,
            weights=count_weights(checkpoint.config),
            active_weights=round(count_active_weights(checkpoint.config)),
            embedding_weights=math.prod(shapes[EMBEDDING]),
            kv_bytes_per_token=kv_bytes_per_token(checkpoint.config),
            predictions=tuple(predict(name, checkpoint.config, each, bandwidth) for name, each in found.items()),
            not_possible=not_possible,
            kind=_kind(checkpoint),
            notices=(*checkpoint.notices, *_code_notices(checkpoint), *_machine_notices()),
        )


def _kind(checkpoint: Checkpoint) -> ModelKind:
    """Kind of a model as far as its files say: early Qwen3-Rerankers have nothing that a language model has not."""
    if checkpoint.config.is_embedding:
        return "embedding model"
    return "reranker" if stated_kind(checkpoint.side_folder) == "reranker" else "language model"


def _code_notices(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Notice of matrices that another tool quantized: each format of the table quantizes them a second time."""
    count = sum(not matrix.holds_floats for matrix in checkpoint.matrices.values())
    if not count:
        return ()
    detail = (
        "matrices hold codes of another tool: without a --format, `q3edge build` keeps those that fit; the formats "
        "below quantize them anew"
    )
    return (Notice("has-codes", count, detail),)


def _machine_notices() -> tuple[Notice, ...]:
    slow = slow_block_products()
    return (Notice("slow-block-products", 1, f"{slow}; the speeds below do not count that"),) if slow else ()


def footprints(config: Qwen3Config) -> tuple[dict[str, Footprint], dict[str, str]]:
    """Footprint of each format of a model by name, and why the others do not fit it."""
    shapes = tensor_shapes(config)
    found, not_possible = {}, {}
    for name in (FLOAT, *FORMATS):
        try:
            schemes: Mapping[str, Scheme | None] = dict.fromkeys(shapes)
            if name != FLOAT:
                schemes = Recipe.for_format(name).fitted_to(config)[0].resolve(config)
            found[name] = Footprint.of(config, schemes)
        except (UsageError, InputError) as error:  # group sizes that do not fit, shapes that no operator takes
            not_possible[name] = str(error)
    return found, not_possible
