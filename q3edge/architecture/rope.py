"""Rotary position embedding: settings and inverse frequencies.

Default and linear as in transformers; YaRN as in Peng et al. 2023 (arXiv 2309.00071) and transformers'
`_compute_yarn_parameters`. The cos/sin tables are made in the reference and the exporter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError

RopeType = Literal["default", "linear", "yarn"]
_KNOWN = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor",
    "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor",
}  # fmt: skip

_SMALLEST, _LARGEST = 1e-9, 1e18  # beyond them float32 frequencies under- or overflow


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary settings: theta and, for linear and YaRN, how positions beyond the trained length are scaled."""

    rope_type: RopeType
    theta: float
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    @classmethod
    def from_config(cls, raw: Mapping[str, Any], source: str) -> RopeConfig:
        """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before); `source`: for errors."""
        scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if not isinstance(scaling, Mapping):
            raise InputError(f"{source}: rope_scaling = {scaling!r}: expected an object or null")
        if unknown := sorted(set(scaling) - _KNOWN):
            raise InputError(f"{source}: rope_scaling has unknown fields {unknown}; supported: {sorted(_KNOWN)}")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in ("default", "linear", "yarn"):
            raise InputError(f"{source}: rope_type = {kind!r}: expected default, linear or yarn")
        if scaling.get("partial_rotary_factor", 1.0) != 1.0:
            raise InputError(f"{source}: partial_rotary_factor = {scaling['partial_rotary_factor']!r}: expected 1.0")
        read = _Reader(scaling, source)
        theta = read.positive("rope_theta", default=_Reader(raw, source).positive("rope_theta", default=10000.0))
        if theta <= 1:
            raise InputError(f"{source}: rope_theta = {theta!r}: expected a number above 1")
        if kind == "default":
            return cls("default", theta)
        if kind == "linear":
            return cls("linear", theta, factor=read.positive("factor"))
        return cls._yarn(read, theta, raw)

    @classmethod
    def _yarn(cls, read: _Reader, theta: float, raw: Mapping[str, Any]) -> RopeConfig:
        trained = int(_Reader(raw, read.source).positive("max_position_embeddings"))
        factor = read.positive("factor")
        return cls(
            "yarn",
            theta,
            factor=factor,
            original_max_position_embeddings=int(read.positive("original_max_position_embeddings", default=trained)),
            beta_fast=read.positive("beta_fast", default=32.0),
            beta_slow=read.positive("beta_slow", default=1.0),
            truncate=bool(read.raw.get("truncate", True)),
            attention_factor=read.positive("attention_factor", default=_yarn_attention_factor(read, factor)),
        )

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Inverse frequencies, float32 [head_dim/2]: radians per position of each rotated pair."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        # numpy's float32 power is often one unit off torch's; rounding the float64 power once is not.
        positional = (self.theta ** exponents.astype(np.float64)).astype(np.float32)
        plain = np.float32(1.0) / positional
        if self.rope_type == "default":
            return plain
        if self.rope_type == "linear":
            return (plain / np.float32(self.factor)).astype(np.float32)
        low, high = self._yarn_range(head_dim)
        ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
        stretched = np.float32(1.0) / (np.float32(self.factor) * positional)
        blended: NDArray[np.float32] = (stretched * ramp + plain * (1 - ramp)).astype(np.float32)
        return blended

    def _yarn_range(self, head_dim: int) -> tuple[float, float]:
        """Range of YaRN's ramp (eq. 23): pairs below `low` keep their frequency, above `high` are fully stretched."""

        def pair(rotations: float) -> float:
            length = self.original_max_position_embeddings
            return head_dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high + 0.001 if low == high else high


def _yarn_attention_factor(read: _Reader, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if read.raw.get("mscale") and read.raw.get("mscale_all_dim"):
        return mscale(read.positive("mscale")) / mscale(read.positive("mscale_all_dim"))
    return mscale(1.0)


class _Reader:
    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def positive(self, field: str, default: float | None = None) -> float:
        value = self.raw.get(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST < value < _LARGEST:
            raise InputError(f"{self.source}: {field} = {value!r}: expected a positive number")
        return float(value)
