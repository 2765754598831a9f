"""Predicted cost of a format on this machine: RAM, speed, seconds. Pure functions of a model's shapes and of speeds.

What a format takes anywhere is a `Footprint`, exact on the disk. The rest is predicted, with constants fitted on 2-core
machines (one with AVX-512, calibration with AVX2); speed and time scale with what this machine reaches.
benchmarks/predictions.py and benchmarks/calibration_cost.py compare them with measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.architecture.tensors import count_weights
from q3edge.formats import FLOAT
from q3edge.machine.cpu import default_threads
from q3edge.machine.speed import BFLOAT16_GAIN
from q3edge.pipeline.footprint import weight_bytes_per_token, weights_in_memory
from q3edge.quantization.scheme import Scheme

_CACHE_TOKENS = 2048  # of KV cache that the RAM column counts, where the context is not shorter
_RUNTIME_BYTES = 150e6  # Python, onnxruntime, tokenizer and activations
_BANDWIDTH_SHARE = {True: 0.5, False: 0.77}  # that decoding reaches, of one core's bandwidth x cores; key: is quantized
_FITTED_BANDWIDTH = 35e9  # bytes/s of the machine the seconds below were fitted on
_START_SECONDS = 2.0
_SECONDS_PER_WEIGHT = {
    "int4-mixed": 17e-9, "int4": 17e-9, "int4-fast": 17e-9, "int8": 9e-9, "int8-dynamic": 12e-9, FLOAT: 10e-9,
}  # fmt: skip
_PRODUCT_SHARE = 0.8  # speed of torch's products on all cores by that of the probe's
_CALIBRATION_START_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a format of a model takes, whatever the machine: exact on the disk, of all weights in memory, and of
    those that one decoding step reads.
    """

    disk_bytes: int
    weights_in_memory: int
    bytes_per_token: int

    @classmethod
    def of(cls, config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> Footprint:
        """Footprint of the model whose tensors have these schemes; errors are those of `dry_run`."""
        from q3edge.exporters.onnx.dry_run import dry_run  # it needs the package onnx, and a footprint at hand does not

        return cls(
            dry_run(config, schemes).model_bytes,
            weights_in_memory(config, schemes),
            weight_bytes_per_token(config, schemes),
        )


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
class CalibrationWork:
    """Operations of matrix products that a calibration comes to: its forward passes, and all else."""

    forward: float
    other: float


def predict(name: str, config: Qwen3Config, footprint: Footprint, bandwidth: float) -> Prediction:
    """Predict a format of a model on this machine; bandwidth: bytes/s of one core."""
    weights = count_weights(config)
    speed = _BANDWIDTH_SHARE[name != FLOAT] * bandwidth * default_threads() / footprint.bytes_per_token
    cache = cache_tokens(config) * kv_bytes_per_token(config)
    return Prediction(
        format=name,
        disk_bytes=footprint.disk_bytes,
        bits_per_weight=8 * footprint.disk_bytes / weights,
        ram_bytes=int(_RUNTIME_BYTES + footprint.weights_in_memory + cache),
        tokens_per_second=None if config.is_embedding else speed,
        build_seconds=rounding_seconds(name, weights, bandwidth),
    )


def cache_tokens(config: Qwen3Config) -> int:
    """Tokens of KV cache that the predicted RAM holds."""
    return min(_CACHE_TOKENS, config.context_length)


def kv_bytes_per_token(config: Qwen3Config) -> int:
    """Bytes of KV cache that a token takes; none in an embedding model."""
    return 0 if config.is_embedding else KVCacheSpec.of(config).bytes_per_token()


def rounding_seconds(format_name: str, weights: int, bandwidth: float) -> float:
    """Predict the seconds of a build without calibration; bandwidth: bytes/s of one core."""
    return _START_SECONDS + weights * _SECONDS_PER_WEIGHT[format_name] * _FITTED_BANDWIDTH / bandwidth


def calibration_seconds(work: CalibrationWork, speed: float, *, bfloat16: bool) -> float:
    """Predict the seconds of a calibration; speed: operations/s of float32 products, as `matrix_speed` measures.

    bfloat16: whether forward passes are computed in it.
    """
    forward = work.forward / (BFLOAT16_GAIN if bfloat16 else 1.0)
    return _CALIBRATION_START_SECONDS + (forward + work.other) / (_PRODUCT_SHARE * speed)
