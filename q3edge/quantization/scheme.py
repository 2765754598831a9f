"""`Scheme`: storage of the numbers of one weight matrix; checks validity and computes sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from q3edge.errors import UsageError

Activations = Literal["float", "int8_per_token"]
Scales = Literal["int8", "float16", "float32"]

GROUP_SIZES = (16, 32, 64, 128, 256)
_SCALE_BITS: Final[Mapping[Scales, int]] = {"int8": 8, "float16": 16, "float32": 32}  # of a group
_ROW_BITS: Final[Mapping[Scales, int]] = {"int8": 8, "float16": 0, "float32": 0}  # of a row: an exponent


@dataclass(frozen=True, slots=True)
class Scheme:
    """Block-wise integer weights: every `group_size` neighbours along K share a scale.

    bits: 2, 4 or 8.
    group_size: 16, 32, 64, 128 or 256; None means one group per output row ("per channel").
    symmetric: the zero point is 2**(bits-1) and not stored; otherwise a `bits`-wide zero point per group.
    activations: "int8_per_token" also rounds the layer's input to int8 with one scale per token (W8A8).
    scales: "int8" stores each as an 8-bit multiple of its row's power of two (`q3edge.quantization.scales`), "float16"
    as it is, and "float32" those of other tools that float16 does not hold. One scale per row is never int8.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    activations: Activations = "float"
    scales: Scales = "int8"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in (2, 4, 8):
            raise UsageError(f"bits = {self.bits!r}: expected 2, 4 or 8 (the widths onnxruntime has kernels for)")
        if not isinstance(self.symmetric, bool):
            raise UsageError(f"symmetric = {self.symmetric!r}: expected true or false")
        if self.activations not in ("float", "int8_per_token"):
            raise UsageError(f"activations = {self.activations!r}: expected 'float' or 'int8_per_token'")
        if self.activations == "int8_per_token":
            if (self.bits, self.group_size, self.symmetric) != (8, None, True):
                raise UsageError("int8_per_token activations need symmetric 8-bit weights with one scale per row")
        elif type(self.group_size) is not int or self.group_size not in GROUP_SIZES:
            raise UsageError(f"group_size = {self.group_size!r}: expected one of {', '.join(map(str, GROUP_SIZES))}")
        if self.scales not in tuple(_SCALE_BITS):
            raise UsageError(f"scales = {self.scales!r}: expected 'int8', 'float16' or 'float32'")
        if self.group_size is None and self.scales == "int8":
            object.__setattr__(self, "scales", "float16")

    @property
    def max_code(self) -> int:
        """Largest stored code; codes are unsigned, 0..max_code."""
        return (1 << self.bits) - 1

    @property
    def implicit_zero_point(self) -> int:
        """Zero point of a symmetric scheme: 2**(bits-1)."""
        return 1 << (self.bits - 1)

    def groups(self, in_features: int) -> int:
        """Number of groups along K = `in_features`; UsageError if the group size does not divide it."""
        if self.group_size is None:
            return 1
        if in_features % self.group_size:
            valid = ", ".join(str(g) for g in GROUP_SIZES if in_features % g == 0)
            valid = valid or "none, but the format int8-dynamic takes any width"
            raise UsageError(
                f"group size {self.group_size} does not divide the width {in_features}; valid sizes: {valid}"
            )
        return in_features // self.group_size

    def fits(self, in_features: int) -> bool:
        """Tell whether this group size, or a smaller one, divides K = `in_features`."""
        return self.group_size is None or in_features % GROUP_SIZES[0] == 0

    def fitted(self, in_features: int) -> Scheme:
        """Scheme with the largest group size up to this one that divides K = `in_features`; itself if none does."""
        if self.group_size is None:
            return self
        sizes = (size for size in GROUP_SIZES if size <= self.group_size and in_features % size == 0)
        return replace(self, group_size=max(sizes, default=self.group_size))

    def bits_per_weight(self, in_features: int) -> float:
        """Stored bits per weight, scales and zero points included."""
        per_group = 0 if self.symmetric else self.bits
        return self.bits + (self._scale_bits(in_features) + per_group * self.groups(in_features)) / in_features

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Bytes of codes + scales + zero points of an [N, K] matrix, each zero-point row padded to whole bytes."""
        groups = self.groups(in_features)
        zero_points = 0 if self.symmetric else -(-groups * self.bits // 8)
        return out_features * (in_features * self.bits // 8 + self._scale_bits(in_features) // 8 + zero_points)

    def _scale_bits(self, in_features: int) -> int:
        """Bits of the scales of one row."""
        return self.groups(in_features) * _SCALE_BITS[self.scales] + _ROW_BITS[self.scales]

    def label(self) -> str:
        """Short name for tables: int4-g32-asym, int8-g32, int4-g128-f16, int8-channel-a8."""
        parts = [f"int{self.bits}", "channel" if self.group_size is None else f"g{self.group_size}"]
        if not self.symmetric:
            parts.append("asym")
        if self.states_scales:
            parts.append("f32" if self.scales == "float32" else "f16")
        if self.activations == "int8_per_token":
            parts.append("a8")
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object, `scales` only where there was a choice; `Scheme(**obj)` reads it back."""
        fields = asdict(self)
        return fields if self.states_scales else {key: value for key, value in fields.items() if key != "scales"}

    @property
    def states_scales(self) -> bool:
        """Tell whether the scales are not stored by default: int8, or float16 of a row."""
        return self.scales != ("float16" if self.group_size is None else "int8")

    @property
    def scale_dtype(self) -> str:
        """Name of the numpy type of scales in memory and in a quantized checkpoint: float16, or float32."""
        return "float32" if self.scales == "float32" else "float16"
