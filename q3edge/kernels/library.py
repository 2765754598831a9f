"""The library of kernels: found beside this file, loaded once, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).resolve().parent / "libq3edge_kernels.so"
DOMAIN = "q3edge.kernels"  # of the operators
PORTABLE = "portable"  # the instruction set that every CPU has
VERSION = 4  # of operators and functions: native/library.cpp
ALIGNMENT = 64  # bytes, of packed matrices and of scratch
_SEAL = 32  # bytes at the end of the file, the sha256 of all before them (build.py)
_SIZE, _POINTER, _NUMBER = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """Block-quantized matrix [rows, width] in groups of `group` codes, as the kernels read it (native/layout.h)."""

    rows: int
    width: int
    group: int
    bits: int
    symmetric: bool
    float32_scales: bool

    def attributes(self) -> dict[str, int]:
        """Attributes by which our operator knows the shape (native/product_operator.cpp)."""
        numbers = (self.rows, self.width, self.group, self.bits, self.symmetric, self.float32_scales)
        return dict(
            zip(("N", "K", "block_size", "bits", "symmetric", "float32_scales"), map(int, numbers), strict=True)
        )

    def numbers(self) -> ctypes.Array[ctypes.c_int64]:
        """The same in the order that the library takes them in."""
        values = self.attributes().values()
        return (_NUMBER * len(values))(*values)


class Library:
    """Loaded library. Its functions release the interpreter while they run, and may run in several threads."""

    def __init__(self, path: Path) -> None:
        """Load `path`; OSError: it is not there, damaged, not for this machine, or of another version of this program.

        Damage is found before it is loaded: a library that was cut short would end this process.
        """
        self.path, self._digest = path, _sealed_digest(path)
        self._library = ctypes.CDLL(str(path))
        self._one_mapping = Lock()
        declared: Sequence[tuple[str, Any, list[Any]]] = (
            ("version", _SIZE, []),
            ("set_count", _SIZE, []),
            ("set_name", ctypes.c_char_p, [_SIZE]),
            ("packed_bytes", _SIZE, [_POINTER]),
            ("are_float16", ctypes.c_int, [_POINTER, _SIZE]),
            ("pack", None, [_POINTER] * 5),
            ("checksum", ctypes.c_uint64, [_POINTER, _SIZE]),
            ("load_matrix", ctypes.c_uint64, [_SIZE, _SIZE]),
            ("open_mapping", ctypes.c_int, [ctypes.c_char_p, _SIZE]),
            ("close_mapping", None, []),
            ("product_scratch", _SIZE, [_POINTER, _SIZE]),
            ("multiply", None, [_SIZE, _POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _POINTER]),
            ("expert_scratch", _SIZE, [_POINTER, _SIZE]),
            ("compute_experts", None, [_SIZE, *[_POINTER] * 5, _SIZE, _POINTER, _POINTER]),
            ("attention_scratch", _SIZE, [_SIZE, _POINTER, _SIZE]),
            ("attend", ctypes.c_char_p, [_SIZE, _POINTER, _POINTER, _SIZE]),
        )
        for name, result, arguments in declared:
            function = getattr(self._library, f"q3edge_{name}")
            function.restype, function.argtypes = result, arguments
        if self._call("version") != VERSION:
            raise OSError("it is of another version of q3edge")
        # Instruction sets of this CPU that the library has kernels for, the best first, PORTABLE last.
        self.instruction_sets: tuple[str, ...] = tuple(
            self._call("set_name", number).decode() for number in range(self._call("set_count"))
        )

    def digest(self) -> str:
        """Digest of the library, hex sha256: another build may round in another order."""
        return self._digest

    def packed_bytes(self, shape: MatrixShape) -> int:
        """Count the bytes of a packed matrix; 0 if the kernels cannot have such a one."""
        count: int = self._call("packed_bytes", shape.numbers())
        return count

    def are_float16(self, values: NDArray[np.float32]) -> bool:
        """Tell whether float16 has all these values exactly."""
        values = np.ascontiguousarray(values)
        return bool(self._call("are_float16", values.ctypes.data, values.size))

    def pack(
        self,
        shape: MatrixShape,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float32],
        zero_points: NDArray[np.uint8] | None,
        out: NDArray[np.uint8],
    ) -> None:
        """Pack a matrix from the inputs of onnxruntime's MatMulNBits into `out`, uint8 [packed_bytes(shape)].

        codes: uint8 [N, K/G, G*bits/8]; scales: float32 [N, K/G]; zero_points: uint8 [N, ceil(K/G*bits/8)], None if
        the matrix is symmetric. ValueError: they are not of this shape.
        """
        groups = shape.width // shape.group
        sizes: Sequence[tuple[NDArray[Any], Any, int]] = (
            (codes, np.uint8, shape.rows * shape.width * shape.bits // 8),
            (scales, np.float32, shape.rows * groups),
            (out, np.uint8, self.packed_bytes(shape)),
            *([] if zero_points is None else [(zero_points, np.uint8, shape.rows * -(-groups * shape.bits // 8))]),
        )
        for array, dtype, size in sizes:
            if array.dtype != dtype or array.size != size or not array.flags.c_contiguous or not size:
                raise ValueError(f"{array.dtype} {array.shape} does not fit {shape}")
        if shape.symmetric != (zero_points is None):
            raise ValueError(f"zero points are {'not ' * shape.symmetric}needed for {shape}")
        points = None if zero_points is None else zero_points.ctypes.data
        self._call("pack", shape.numbers(), codes.ctypes.data, scales.ctypes.data, points, out.ctypes.data)

    def checksum(self, packed: NDArray[np.uint8]) -> int:
        """Compute a checksum of bytes, which tells damage by accident."""
        found: int = self._call("checksum", packed.ctypes.data, packed.size)
        return found

    @contextmanager
    def mapped(self, path: Path, *, copied: int) -> Iterator[None]:
        """Map a file of packed matrices for the operators of a session that is made inside the block, and holds it.

        copied: so many of its first bytes are in pages of 2 MB where the system has such, which are faster to read and
        belong to this process; the others are in the file's own pages. A matrix can be read once it is loaded. Another
        thread that would map one waits. OSError: it cannot be mapped.
        """
        path.open("rb").close()  # says why it cannot be read
        with self._one_mapping:
            try:
                if not self._call("open_mapping", os.fsencode(path), copied):
                    raise OSError("no memory or addresses for it")
                yield
            finally:
                self._call("close_mapping")

    def load(self, offset: int, shape: MatrixShape) -> int:
        """Load a matrix of the file that is mapped; returns the checksum of its bytes.

        0: it does not lie there or cannot be read. Matrices may be loaded in several threads.
        """
        found: int = self._call("load_matrix", offset, self.packed_bytes(shape))
        return found

    def multiply(
        self, instruction_set: str, shape: MatrixShape, packed: NDArray[np.uint8], x: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute x W.T on this thread by one instruction set: float32 [M, K] -> [M, N]; for tests.

        packed: at a multiple of ALIGNMENT. ValueError: an array or the set does not fit.
        """
        if (
            packed.size != self.packed_bytes(shape)
            or packed.ctypes.data % ALIGNMENT
            or x.shape[1:] != (shape.width,)
            or x.dtype != np.float32
        ):
            raise ValueError(f"{x.dtype} {x.shape} and {packed.size} bytes do not fit {shape}")
        x = np.ascontiguousarray(x)
        numbers, rows = shape.numbers(), len(x)
        result = np.empty((rows, shape.rows), np.float32)
        scratch = aligned_bytes(self._call("product_scratch", numbers, rows))
        self._call(
            "multiply",
            self.instruction_sets.index(instruction_set),
            *(numbers, packed.ctypes.data, x.ctypes.data, rows, result.ctypes.data, scratch.ctypes.data),
        )
        return result

    def compute_experts(
        self,
        instruction_set: str,
        shapes: tuple[MatrixShape, MatrixShape],
        packed: tuple[NDArray[np.uint8], NDArray[np.uint8]],
        x: NDArray[np.float32],
        logits: NDArray[np.float32],
        chosen: int,
    ) -> NDArray[np.float32]:
        """Compute a layer's experts on this thread by one instruction set: float32 [M, H] -> [M, H]; for tests.

        shapes: of one expert's gate and up [2 I, H], gate's rows first, and of its down matrix [H, I]; packed: those of
        all experts, one behind the other, at a multiple of ALIGNMENT. logits: float32 [M, E], of which each row takes
        the `chosen` largest. ValueError: an array does not fit.
        """
        rows, count = logits.shape
        numbers = (_NUMBER * 14)(count, chosen, *(number for shape in shapes for number in shape.numbers()))
        scratch = aligned_bytes(self._call("expert_scratch", numbers, rows))
        x, logits = np.ascontiguousarray(x), np.ascontiguousarray(logits)
        if (
            not scratch.size
            or x.shape != (rows, shapes[1].rows)
            or any(array.dtype != np.float32 for array in (x, logits))
            or any(array.size != count * self.packed_bytes(shape) for array, shape in zip(packed, shapes, strict=True))
            or any(array.ctypes.data % ALIGNMENT for array in packed)
        ):
            raise ValueError(f"{x.dtype} {x.shape} and {logits.dtype} {logits.shape} do not fit {count} x {shapes}")
        result = np.empty_like(x)
        self._call(
            "compute_experts",
            self.instruction_sets.index(instruction_set),
            *(numbers, packed[0].ctypes.data, packed[1].ctypes.data, x.ctypes.data, logits.ctypes.data, rows),
            *(result.ctypes.data, scratch.ctypes.data),
        )
        return result

    def attend(
        self, instruction_set: str, shape: Sequence[int], arrays: Sequence[NDArray[Any] | None], threads: int
    ) -> str | None:
        """Compute attention by one instruction set on so many threads of its own; for tests.

        shape, arrays: numbers and pointers of `AttentionCall` (native/attention.h), in order, without the scratch.
        Returns what is wrong with the call, None if nothing is.
        """
        place, numbers = self.instruction_sets.index(instruction_set), (_NUMBER * len(shape))(*shape)
        scratch = aligned_bytes(self._call("attention_scratch", place, numbers, threads))
        addresses = [None if array is None else array.ctypes.data for array in (*arrays, scratch)]
        problem: bytes | None = self._call("attend", place, numbers, (_POINTER * len(addresses))(*addresses), threads)
        return None if problem is None else problem.decode()

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"q3edge_{name}")(*arguments)


def _sealed_digest(path: Path) -> str:
    """Hash a library; OSError: it is not what was built."""
    content = memoryview(path.read_bytes())
    found = hashlib.sha256(content[:-_SEAL])
    if found.digest() != content[-_SEAL:]:
        raise OSError("it is damaged")
    return found.hexdigest()


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Make room for `count` bytes at a multiple of ALIGNMENT."""
    room = np.empty(count + ALIGNMENT, np.uint8)
    return room[-room.ctypes.data % ALIGNMENT :][:count]


@cache
def library() -> Library | None:
    """Load the library; None where there is none, or none that works (`obstacle`)."""
    try:
        return Library(LIBRARY)
    except (OSError, AttributeError):  # none, damaged, of another machine, or of another version
        return None


def obstacle() -> str | None:
    """Say why there is no library; None: there is."""
    return fault() if LIBRARY.exists() else f"{LIBRARY} was not built at installation"


def fault() -> str | None:
    """Say why a library that is there cannot be used, and what to do; None: it can, or there is none."""
    try:
        Library(LIBRARY)
    except FileNotFoundError:
        return None
    except (OSError, AttributeError) as error:
        return f"{LIBRARY} cannot be loaded ({error}): install q3edge again, or remove the file"
    return None
