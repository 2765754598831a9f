"""`StoredMatrix`: one weight matrix as another tool stores it, in tensors of its own; base of every such layout.

A layout is a class with the parts of a matrix and their decoding; `q3edge.checkpoint.checkpoint` finds the matrices of
a model by their parts, checks these, and reads through the layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.checkpoint.tensor_files import Expected, TensorFiles
from q3edge.errors import InputError
from q3edge.quantization.scheme import GROUP_SIZES, Scales, Scheme
from q3edge.quantization.tensor import QuantizedTensor, UInt8Array

_WIDTHS = (2, 4, 8)  # of codes that onnxruntime has kernels for
_ROWS = 1024  # of a matrix that are read at a time to learn what its numbers are


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors of one matrix in the files: part ("qweight", ...) -> stored name, read by part."""

    files: TensorFiles
    stored: Mapping[str, str]

    def read(self, part: str, rows: slice | None = None) -> NDArray[Any]:
        """Read a part, or a range of its rows, in its stored dtype."""
        return self.files.read(self.stored[part], rows)

    def read_float(self, part: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read a float part, or a range of its rows, as float32; InputError for NaN or infinity."""
        return self.files.read_float(self.stored[part], rows)

    def shape(self, part: str) -> tuple[int, ...]:
        """Shape of a part in the files."""
        return self.files.entries[self.stored[part]].shape

    def where(self, part: str) -> str:
        """Place of a part for errors: its file and stored name."""
        return f"{self.files.path_of(self.stored[part])} ({self.stored[part]})"


class StoredMatrix(ABC):
    """Matrix [N, K] in a layout that is not one tensor of floats. Only the shapes of its parts are read at first.

    label: the layout for messages, such as "GPTQ 4 bits".
    holds_floats: its numbers are floats, if narrow ones: quantizing them is no second time.
    """

    label: str
    holds_floats = False

    def __init__(self, parts: Parts, shape: tuple[int, int]) -> None:
        self.parts: Parts = parts
        self.shape: tuple[int, ...] = shape

    @property
    @abstractmethod
    def expected(self) -> Mapping[str, Expected]:
        """Expected parts: part -> dtypes allowed, shape."""

    @abstractmethod
    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K], dequantized as the layout's own library does it."""

    @property
    def scheme(self) -> Scheme | None:
        """Scheme that holds the codes of this matrix exactly; None: `why_not` tells why there is none."""
        return None

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes, in a few words that follow "because"."""
        return f"{self.label} has no such codes"

    @property
    def approximation(self) -> str | None:
        """What the values of `scheme`'s codes differ by from `values`, in a few words; None: they are the same."""
        return None

    def codes(self, rows: slice) -> QuantizedTensor:
        """Read rows start:stop by `scheme`; TypeError if it is None."""
        raise TypeError(f"{self.label}: has no codes to keep")


@dataclass(frozen=True, slots=True)
class Integers:
    """Integer codes of some rows: value = (code - zero point) * scale.

    codes: uint8 [n, K]; scales: float32 [n, groups]; zero_points: uint8 [n, groups], None: 2**(bits-1) everywhere.
    """

    codes: UInt8Array
    scales: NDArray[np.float32]
    zero_points: UInt8Array | None


class IntegerMatrix(StoredMatrix):
    """Matrix of integer codes with a scale, and maybe an integer zero point, for equal groups of neighbours along K.

    bits: of a code. group_size: K where a row has one scale.
    """

    def __init__(self, parts: Parts, shape: tuple[int, int], bits: int, group_size: int) -> None:
        super().__init__(parts, shape)
        self.bits, self.group_size = bits, group_size

    @abstractmethod
    def integers(self, rows: slice) -> Integers:
        """Read the codes of rows start:stop."""

    @abstractmethod
    def grid(self, rows: slice) -> tuple[NDArray[np.float32], UInt8Array | None]:
        """Read scales and zero points of rows start:stop alone."""

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]: (code - zero point) * scale."""
        found = self.integers(rows)
        count, width = found.codes.shape
        zero_points = 1 << (self.bits - 1) if found.zero_points is None else found.zero_points[:, :, None]
        grouped = found.codes.reshape(count, -1, self.group_size).astype(np.float32) - np.float32(zero_points)
        with np.errstate(over="ignore"):  # what is not finite is refused by name
            return (grouped * found.scales[:, :, None]).reshape(count, width)

    @property
    def rounds_inputs(self) -> bool:
        """Whether the layer rounds its inputs to int8 with a scale for each token, symmetric (W8A8)."""
        return False

    @cached_property
    def scheme(self) -> Scheme | None:
        """Scheme with these codes; reads all scales and zero points, the first time."""
        if self.bits not in _WIDTHS:
            return None
        exact, symmetric = True, True
        for start in range(0, self.shape[0], _ROWS):
            scales, zero_points = self.grid(slice(start, min(start + _ROWS, self.shape[0])))
            with np.errstate(over="ignore"):
                exact &= bool((scales.astype(np.float16).astype(np.float32) == scales).all())
            symmetric &= zero_points is None or bool((zero_points == 1 << (self.bits - 1)).all())
        kind: Scales = "float16" if exact else "float32"
        if self.rounds_inputs:
            fits = self.group_size == self.shape[1] and self.bits == 8 and symmetric
            return Scheme(8, None, True, "int8_per_token", kind) if fits else None
        return None if self._groups is None else Scheme(self.bits, self._groups, symmetric, scales=kind)

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        if self.bits not in _WIDTHS:
            return f"codes of {self.bits} bits have no kernel"
        return f"groups of {self.group_size} cannot be stored"

    def codes(self, rows: slice) -> QuantizedTensor:
        """Read rows start:stop by `scheme`. InputError: a code outside its range, which a damaged file may hold."""
        scheme = self.scheme
        if scheme is None:
            raise TypeError(f"{self.label}: {self.why_not}")
        found = self.integers(rows)
        times = 1 if scheme.group_size is None else self.group_size // scheme.group_size
        scales = found.scales.astype(np.float16) if scheme.scales == "float16" else found.scales
        zero_points = found.zero_points
        if scheme.symmetric:
            zero_points = None
        elif zero_points is None:
            zero_points = np.full(scales.shape, scheme.implicit_zero_point, np.uint8)
        if times > 1:
            scales = scales.repeat(times, axis=1)
            zero_points = None if zero_points is None else zero_points.repeat(times, axis=1)
        return QuantizedTensor(found.codes, scales, zero_points, scheme)

    @property
    def _groups(self) -> int | None:
        """Largest group size of a Scheme that divides the layout's groups; its own groups share their scale then."""
        return max((size for size in GROUP_SIZES if self.group_size % size == 0), default=None)


def check_parts(matrix: StoredMatrix, asking: str = CONFIG_FILE) -> None:
    """Raise InputError unless every part has the dtype and shape that the layout expects.

    asking: name of what the configuration comes from.
    """
    parts = matrix.parts
    for part, (dtypes, shape) in matrix.expected.items():
        entry = parts.files.entries[parts.stored[part]]
        if entry.shape != shape:
            raise InputError(
                f"{parts.where(part)}: shape {list(entry.shape)}, expected {list(shape)} for {matrix.label} of "
                f"{list(matrix.shape)}; the checkpoint is damaged or {asking} is another model's"
            )
        if entry.dtype not in dtypes:
            raise InputError(f"{parts.where(part)}: dtype {entry.dtype}, expected {' or '.join(dtypes)}")


def take_parts(
    files: TensorFiles, stored: dict[str, str], name: str, needed: Sequence[str], optional: Sequence[str] = ()
) -> Parts | None:
    """Take the parts of matrix `name` ("...q_proj.weight") out of `stored`, canonical -> stored name.

    Parts replace "weight" at the end of the name. None: the first needed one is not there. InputError: another is not.
    """
    module = name.removesuffix("weight")
    if module + needed[0] not in stored:
        return None
    if missing := [part for part in needed if module + part not in stored]:
        where = files.path_of(stored[module + needed[0]])
        raise InputError(f"{where} ({module}{missing[0]}): missing; the checkpoint is incomplete, download it again")
    found = (part for part in (*needed, *optional) if module + part in stored)
    return Parts(files, {part: stored.pop(module + part) for part in found})


def require_matrices(matrices: dict[str, StoredMatrix], folder: Path, method: str) -> dict[str, StoredMatrix]:
    """Return the matrices; InputError if there are none, although config.json names a method of quantization."""
    if not matrices:
        raise InputError(
            f"{folder / CONFIG_FILE}: quantization_config ({method}), but no matrix is stored in that way; remove it "
            "if the weights are float, or download the checkpoint again"
        )
    return matrices
