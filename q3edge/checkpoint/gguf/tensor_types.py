"""Types of tensors in a GGUF file: how many values a block has, and how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TensorType:
    """Type of a tensor: `values` neighbours along a row are one block of `nbytes` bytes.

    number: in the file, of ggml's enum ggml_type.
    """

    name: str
    number: int
    values: int
    nbytes: int

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` values, a multiple of `values`."""
        return width // self.values * self.nbytes


FLOATS: Final = ("F32", "F16", "BF16")
_READ = (
    TensorType("F32", 0, 1, 4), TensorType("F16", 1, 1, 2), TensorType("BF16", 30, 1, 2),
    TensorType("Q4_0", 2, 32, 18), TensorType("Q4_1", 3, 32, 20), TensorType("Q5_0", 6, 32, 22),
    TensorType("Q5_1", 7, 32, 24), TensorType("Q8_0", 8, 32, 34), TensorType("IQ4_NL", 20, 32, 18),
    TensorType("Q2_K", 10, 256, 84), TensorType("Q3_K", 11, 256, 110), TensorType("Q4_K", 12, 256, 144),
    TensorType("Q5_K", 13, 256, 176), TensorType("Q6_K", 14, 256, 210),
)  # fmt: skip
TYPES: Final[Mapping[str, TensorType]] = {known.name: known for known in _READ}
BY_NUMBER: Final[Mapping[int, TensorType]] = {known.number: known for known in _READ}
OTHERS: Final[Mapping[int, str]] = {  # for errors
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
