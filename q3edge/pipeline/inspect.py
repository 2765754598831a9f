"""Inspection of a checkpoint and the cost of each format, from headers alone; no torch, nothing written.

Sizes are exact. RAM, speed and time are predictions: their constants were fitted on a 2-core AVX-512 machine, and
speed and time scale with this machine's memory bandwidth. benchmarks/predictions.py compares them with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.architecture.tensors import EMBEDDING, count_active_weights, count_weights, tensor_shapes
from q3edge.artifact import Notice
from q3edge.artifact.sentence_files import stated_kind
from q3edge.checkpoint import Checkpoint, open_float_model
from q3edge.errors import InputError, UsageError
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.formats import FLOAT, FORMATS
from q3edge.machine.cpu import default_threads, slow_block_products
from q3edge.machine.speed import read_bandwidth
from q3edge.pipeline.footprint import weight_bytes_per_token, weights_in_memory
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme

_CACHE_TOKENS = 2048  # of KV cache that the RAM column counts, where the context is not shorter
_RUNTIME_BYTES = 150e6  # Python, onnxruntime, tokenizer and activations
_BANDWIDTH_SHARE = {True: 0.5, False: 0.77}  # that decoding reaches, of one core's bandwidth x cores; key: is quantized
_FITTED_BANDWIDTH = 35e9  # bytes/s of the machine the seconds below were fitted on
_START_SECONDS = 2.0
_SECONDS_PER_WEIGHT = {
    "int4-mixed": 17e-9, "int4": 17e-9, "int4-fast": 17e-9, "int8": 9e-9, "int8-dynamic": 12e-9, FLOAT: 10e-9,
}  # fmt: skip


ModelKind = Literal["language model", "embedding model", "reranker"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted cost of a format: bytes on disk (exact) and in RAM, bits per weight, decode tokens/s, build seconds."""

    format: str
    disk_bytes: int
    bits_per_weight: float
    ram_bytes: int
    tokens_per_second: float | None  # None for an embedding model, which decodes none
    build_seconds: float


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


def cache_tokens(config: Qwen3Config) -> int:
    """Tokens of KV cache that the predicted RAM holds."""
    return min(_CACHE_TOKENS, config.context_length)


def inspect_model(model: str) -> Inspection:
    """Read the headers of MODEL (folder or hub id) and predict every format."""
    with open_float_model(model) as checkpoint:
        shapes = tensor_shapes(checkpoint.config)
        predictions, not_possible = _predict_all(checkpoint.config, shapes)
        return Inspection(
            model=model,
            config=checkpoint.config,
            dtypes=checkpoint.dtype_counts(),
            stored_bytes=checkpoint.stored_bytes,
            weights=count_weights(checkpoint.config),
            active_weights=round(count_active_weights(checkpoint.config)),
            embedding_weights=math.prod(shapes[EMBEDDING]),
            kv_bytes_per_token=_kv_bytes_per_token(checkpoint.config),
            predictions=predictions,
            not_possible=not_possible,
            kind=_kind(checkpoint),
            notices=(*checkpoint.notices, *_machine_notices()),
        )


def _kind(checkpoint: Checkpoint) -> ModelKind:
    """Kind of a model as far as its files say: early Qwen3-Rerankers have nothing that a language model has not."""
    if checkpoint.config.is_embedding:
        return "embedding model"
    return "reranker" if stated_kind(checkpoint.folder) == "reranker" else "language model"


def _machine_notices() -> tuple[Notice, ...]:
    slow = slow_block_products()
    return (Notice("slow-block-products", 1, f"{slow}; the speeds below do not count that"),) if slow else ()


def _predict_all(
    config: Qwen3Config, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[Prediction, ...], dict[str, str]]:
    bandwidth = read_bandwidth()
    predictions, not_possible = [], {}
    for name in (FLOAT, *FORMATS):
        try:
            schemes: Mapping[str, Scheme | None] = dict.fromkeys(shapes)
            if name != FLOAT:
                schemes = Recipe.for_format(name).fitted_to(config)[0].resolve(config)
            predictions.append(_predict(name, config, schemes, bandwidth))
        except (UsageError, InputError) as error:  # group sizes that do not fit, shapes that no operator takes
            not_possible[name] = str(error)
    return tuple(predictions), not_possible


def _predict(
    name: str,
    config: Qwen3Config,
    schemes: Mapping[str, Scheme | None],
    bandwidth: float,
) -> Prediction:
    disk_bytes = dry_run(config, schemes).model_bytes
    weights = count_weights(config)
    cache = cache_tokens(config) * _kv_bytes_per_token(config)
    speed = _BANDWIDTH_SHARE[name != FLOAT] * bandwidth * default_threads() / weight_bytes_per_token(config, schemes)
    return Prediction(
        format=name,
        disk_bytes=disk_bytes,
        bits_per_weight=8 * disk_bytes / weights,
        ram_bytes=int(_RUNTIME_BYTES + weights_in_memory(config, schemes) + cache),
        tokens_per_second=None if config.is_embedding else speed,
        build_seconds=rounding_seconds(name, weights, bandwidth),
    )


def _kv_bytes_per_token(config: Qwen3Config) -> int:
    return 0 if config.is_embedding else KVCacheSpec.of(config).bytes_per_token()


def rounding_seconds(format_name: str, weights: int, bandwidth: float) -> float:
    """Predict the seconds of a build without calibration; bandwidth: bytes/s of one core."""
    return _START_SECONDS + weights * _SECONDS_PER_WEIGHT[format_name] * _FITTED_BANDWIDTH / bandwidth
