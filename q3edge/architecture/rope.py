"""Rotary position embedding: settings, inverse frequencies, and the length that they reach.

Default and linear as in transformers; YaRN as in Peng et al. 2023 (arXiv 2309.00071) and transformers'
`_compute_yarn_parameters`. The cos/sin tables are made in the reference and the exporter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.fields import Fields, shown
from q3edge.errors import InputError

RopeType = Literal["default", "linear", "dynamic", "yarn"]
MAX_POSITIONS: Final = 2**24  # positions are float32, which has every integer up to here
_ROPE_PARAMETERS, _ROPE_SCALING, _ORIGINAL = "rope_parameters", "rope_scaling", "original_max_position_embeddings"
_KNOWN = {
    "rope_type", "type", "rope_theta", "factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "truncate", "partial_rotary_factor",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary settings: theta and, for linear and YaRN, how positions beyond the trained length are scaled.

    Dynamic scaling changes nothing up to max_position_embeddings, where a model with it ends here.
    """

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
        """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before); `source`: for errors.

        Where both are there, transformers 5 takes `rope_scaling` in place of `rope_parameters`, as transformers 4 does
        by not knowing the latter. So it is here, but for one case, which is refused: a theta in `rope_parameters` alone
        would fall back to transformers' default.
        """
        fields = Fields(raw, source)
        new, old = fields.object(_ROPE_PARAMETERS), fields.object(_ROPE_SCALING)
        chosen = cls._read(_ROPE_SCALING if old else _ROPE_PARAMETERS, fields)
        if new and old and cls._read(_ROPE_PARAMETERS, fields).theta != chosen.theta:
            raise InputError(
                f"{source}: rope_theta: {_ROPE_SCALING} takes the place of {_ROPE_PARAMETERS} and makes it "
                f"{chosen.theta!r} instead of {shown(new.get('rope_theta'))}; expected one of them, with rope_theta"
            )
        return chosen

    @classmethod
    def _read(cls, place: str, config: Fields) -> RopeConfig:
        settings = config.object(place)
        read = Fields(settings, config.source)
        if unknown := sorted(set(settings) - _KNOWN):
            raise InputError(
                f"{config.source}: {place} has unknown fields {shown(unknown)}; supported: {sorted(_KNOWN)}"
            )
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in ("default", "linear", "dynamic", "yarn"):
            raise InputError(f"{config.source}: rope_type = {shown(kind)}: expected default, linear, dynamic or yarn")
        for found in (read, config):
            if found.raw.get("partial_rotary_factor") not in (None, 1):
                raise found.error("partial_rotary_factor", "expected 1.0")
        theta = read.real("rope_theta", default=config.real("rope_theta", default=10000.0))
        if theta <= 1:
            raise InputError(f"{config.source}: rope_theta = {theta!r}: expected a number above 1")
        if kind == "default":
            return cls("default", theta)
        if kind == "yarn":
            return cls._yarn(read, theta, config)
        return cls(kind, theta, factor=read.real("factor"))

    @classmethod
    def _yarn(cls, read: Fields, theta: float, config: Fields) -> RopeConfig:
        factor = read.real("factor")
        return cls(
            "yarn",
            theta,
            factor=factor,
            original_max_position_embeddings=_original_length(read, config),
            beta_fast=read.real("beta_fast", default=32.0),
            beta_slow=read.real("beta_slow", default=1.0),
            truncate=read.boolean("truncate", default=True),
            attention_factor=read.real("attention_factor", default=_yarn_attention_factor(read, factor)),
        )

    def reach(self, stated: int) -> int:
        """Longest context in tokens, where config.json has max_position_embeddings = `stated`.

        YaRN stretches its original length by its factor, whatever max_position_embeddings says (Qwen publishes 40960
        for 4 x 32768). The other types leave open whether `stated` is the length before or after, and keep it.
        """
        if self.rope_type != "yarn":
            return stated
        return max(stated, int(self.original_max_position_embeddings * self.factor))

    def fields_of_context(self, raw: Mapping[str, Any], stated: int) -> dict[str, Any]:
        """Fields of config.json that state the reach as max_position_embeddings, where `raw` says `stated`.

        The original length is then stated too, as what is left unsaid would be the new maximum.
        """
        if self.reach(stated) == stated:
            return {}
        place = _ROPE_SCALING if raw.get(_ROPE_SCALING) else _ROPE_PARAMETERS
        settings = {**raw[place], _ORIGINAL: self.original_max_position_embeddings}
        return {"max_position_embeddings": self.reach(stated), place: settings}

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Inverse frequencies, float32 [head_dim/2]: radians per position of each rotated pair."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        # numpy's float32 power is often one unit off torch's; rounding the float64 power once is not.
        positional = (self.theta ** exponents.astype(np.float64)).astype(np.float32)
        plain = np.float32(1.0) / positional
        if self.rope_type in ("default", "dynamic"):
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


def _original_length(read: Fields, config: Fields) -> int:
    """Length that the model was trained for before YaRN: of the settings, else config.json's own, else its maximum.

    transformers 5 prefers a field at the top level, transformers 4 does not know it: two that differ are refused.
    """
    outer = _length(config, _length(config, None, "max_position_embeddings"))
    inner = _length(read, outer)
    if config.raw.get(_ORIGINAL) is not None and inner != outer:
        raise config.error(_ORIGINAL, f"the rotary settings say {inner}; expected one of them, or the same")
    return inner


def _length(fields: Fields, default: int | None, field: str = _ORIGINAL) -> int:
    """Read a length in tokens, which some files write as 32768.0."""
    value = fields.raw.get(field)
    if isinstance(value, float) and value.is_integer():
        fields = Fields({field: int(value)}, fields.source)
    return fields.positive(field, default, most=MAX_POSITIONS)


def _yarn_attention_factor(read: Fields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if read.raw.get("mscale") and read.raw.get("mscale_all_dim"):
        return mscale(read.real("mscale")) / mscale(read.real("mscale_all_dim"))
    return mscale(1.0)
