"""`PackedProducts`: the matrices of a model as our kernels read them, in a file that every session maps.

They are packed once for each machine, into the folder of what is kept: `matrices.bin`, and `matrices.json`, which says
where each lies and what checksum the file has.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.errors import ResourceError
from q3edge.kernels.library import Library, MatrixShape, aligned_bytes
from q3edge.runtime.session.graph_input import graph_names
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.product_graph import BlockMatrix, ScalesOf
from q3edge.storage.kept_folder import ADVICE
from q3edge.storage.removal import remove_path
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import make_read_only, partial_folder, writable

_MATRICES, INDEX = "matrices.bin", "matrices.json"
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Place in the file of a packed matrix, or of several alike, one behind the other; shape of one of them.

    checksums: of the bytes of each.
    """

    offset: int
    shape: MatrixShape
    checksums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedProducts:
    """Packed matrices in `folder` by the name of their codes; size: of their file."""

    folder: Path
    size: int
    matrices: Mapping[str, PackedMatrix]

    @property
    def path(self) -> Path:
        """File of the matrices."""
        return self.folder / _MATRICES

    @property
    def read_always(self) -> int:
        """Bytes of the matrices that every token reads, which the file begins with; experts are behind them."""
        stacks = (matrix.offset for matrix in self.matrices.values() if len(matrix.checksums) > 1)
        return min(stacks, default=self.size)

    def load(self, library: Library, threads: int) -> bool:
        """Have the mapped matrices in memory; False: they are not the bytes that were written."""

        def is_whole(part: tuple[int, MatrixShape, int]) -> bool:
            offset, shape, checksum = part
            return library.load(offset, shape) == checksum

        parts = (
            (matrix.offset + number * library.packed_bytes(matrix.shape), matrix.shape, checksum)
            for matrix in self.matrices.values()
            for number, checksum in enumerate(matrix.checksums)
        )
        with ThreadPoolExecutor(threads) as pool:
            return all(pool.map(is_whole, parts))


def can_be_packed(library: Library, matrix: BlockMatrix, lent: LentWeights) -> bool:
    """Tell whether the kernels can have a matrix, and its weights are at hand."""
    weights = {matrix.codes, *filter(None, [matrix.zero_points])}
    return weights <= lent.names and library.packed_bytes(_shape(matrix, float32_scales=False)) > 0


def read_packed_products(folder: Path, names: Set[str] | None = None) -> PackedProducts | None:
    """Read what `pack_products` has written, and mark it as used; None if there is nothing, or nothing whole.

    names: of the codes of all matrices; None: whatever is there. The file's content is not read: `load` does that.
    """
    found = read_sealed(folder / INDEX)
    try:
        if found["of"] != folder.name or (folder / _MATRICES).stat().st_size != found["size"]:
            return None
        matrices = {
            name: PackedMatrix(each["offset"], MatrixShape(**each["shape"]), tuple(each["checksums"]))
            for name, each in found["matrices"].items()
        }
    except (OSError, TypeError, KeyError):  # none, or another program's
        return None
    if names is not None and names != matrices.keys():
        return None
    with suppress(OSError):  # a disk that is only read
        os.utime(folder / INDEX)
    return PackedProducts(folder, found["size"], matrices)


def pack_products(
    folder: Path,
    model: bytes,
    matrices: Sequence[BlockMatrix],
    lent: LentWeights,
    options: Options,
    library: Library,
    threads: int,
    verify: Callable[[], object],
) -> PackedProducts:
    """Pack matrices into `folder`, which appears whole; verify: checks the weights meanwhile.

    ResourceError: the disk is full, or cannot be written.
    """
    least = sum(each.count * library.packed_bytes(_shape(each, float32_scales=False)) for each in matrices)
    with writable(folder, ADVICE), partial_folder(folder) as partial:
        if (free := shutil.disk_usage(partial).free) < least:
            raise ResourceError(
                f"{folder}: packed weights take {least / 1e9:.1f} GB, {free / 1e9:.1f} are free; {ADVICE}"
            )
        packed: dict[str, PackedMatrix] = {}
        size = 0
        with (partial / _MATRICES).open("wb") as file:
            for matrix, shape, content in _all_packed(model, matrices, lent, options, library, threads):
                before = packed.get(matrix.codes) or PackedMatrix(size, shape, ())
                checksums = (*before.checksums, library.checksum(content))
                packed[matrix.codes] = PackedMatrix(before.offset, shape, checksums)
                file.write(content.data)
                size += content.size
        index = {"of": folder.name, "size": size, "matrices": {name: asdict(each) for name, each in packed.items()}}
        verify()
        make_read_only(partial / _MATRICES)
        write_sealed(partial / INDEX, index, ADVICE)
        remove_path(folder)
        partial.rename(folder)
    return PackedProducts(folder, size, packed)


_Scales = tuple[MatrixShape, NDArray[np.float32]]


def _all_packed(
    model: bytes,
    matrices: Sequence[BlockMatrix],
    lent: LentWeights,
    options: Options,
    library: Library,
    threads: int,
) -> Iterator[tuple[BlockMatrix, MatrixShape, NDArray[np.uint8]]]:
    """Yield the matrices in turn, packed, each of several that lie together alone; a few ahead of what is asked for.

    A matrix is overwritten once the next one is asked for: pages of memory cost as much time as what is put into them.
    """
    models, free = ScalesOf(model), list[NDArray[np.uint8]]()
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[BlockMatrix, Future[_Scales], Future[NDArray[np.uint8]]]] = deque()

        def first() -> Iterator[tuple[BlockMatrix, MatrixShape, NDArray[np.uint8]]]:
            matrix, known, packed = ahead.popleft()
            shape, room = known.result()[0], packed.result()
            yield matrix, shape, room[: library.packed_bytes(shape)]
            free.append(room)

        for matrix in matrices:
            known = pool.submit(_scales, models, matrix, options, library)  # begins before all that waits for it
            for number in range(matrix.count):
                ahead.append((matrix, known, pool.submit(_packed, matrix, number, known, lent, library, free)))
                if len(ahead) > threads:
                    yield from first()
        while ahead:
            yield from first()


def _packed(
    matrix: BlockMatrix,
    number: int,
    known: Future[_Scales],
    lent: LentWeights,
    library: Library,
    free: list[NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Pack the matrix of this number into the begin of an array: of one that is `free`, if it is large enough."""
    shape, scales = known.result()
    size = library.packed_bytes(shape)
    room = free.pop() if free else None
    if room is None or room.size < size:
        room = aligned_bytes(size)
    zero_points = None if matrix.zero_points is None else _part(matrix, number, lent.array(matrix.zero_points))
    codes, of_codes = _part(matrix, number, lent.array(matrix.codes)), _part(matrix, number, scales)
    library.pack(shape, codes, of_codes, zero_points, room[:size])
    return room


def _part(matrix: BlockMatrix, number: int, stored: NDArray[_Number]) -> NDArray[_Number]:
    """Rows of the matrix of this number, as they are packed."""
    rows = stored.reshape(matrix.count, matrix.rows, -1)[number]
    return rows if matrix.in_turn == 1 else np.concatenate([rows[i :: matrix.in_turn] for i in range(matrix.in_turn)])


def _scales(models: ScalesOf, matrix: BlockMatrix, options: Options, library: Library) -> _Scales:
    """Compute the scales as onnxruntime does when it loads the graph: there is little to gain by changing it.

    Returns them with the shape that they let the matrix have.
    """
    computing = models.computing(matrix)
    chosen = options(graph_names(computing)[1])
    chosen.intra_op_num_threads, chosen.graph_optimization_level = 1, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(computing, chosen, providers=["CPUExecutionProvider"])
    (scales,) = session.run(None, {})
    scales = np.ascontiguousarray(scales)
    return _shape(matrix, float32_scales=not library.are_float16(scales)), scales


def _shape(matrix: BlockMatrix, *, float32_scales: bool) -> MatrixShape:
    symmetric = matrix.zero_points is None
    return MatrixShape(matrix.rows, matrix.width, matrix.group_size, matrix.bits, symmetric, float32_scales)
