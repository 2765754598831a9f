"""`PackedProducts`: the matrices of a model as our kernels read them, in a file that every session maps.

They are packed once for each machine, into the folder of what is kept: `matrices.bin`, and `matrices.json`, which says
where each lies and what checksum the file has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.kernels.library import Library, MatrixShape, aligned_bytes
from q3edge.runtime.session.graph_input import graph_names
from q3edge.runtime.session.lent_weights import LentWeights, Options
from q3edge.runtime.session.product_graph import ProductOperator, ScalesOf
from q3edge.storage.kept_folder import ADVICE
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import partial_folder, writable

_MATRICES, INDEX = "matrices.bin", "matrices.json"


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Place of a packed matrix in the file, its shape, and the checksum of its bytes."""

    offset: int
    shape: MatrixShape
    checksum: int


@dataclass(frozen=True, slots=True)
class PackedProducts:
    """Packed matrices in `folder` by the name of their codes."""

    folder: Path
    matrices: Mapping[str, PackedMatrix]

    @property
    def path(self) -> Path:
        """File of the matrices."""
        return self.folder / _MATRICES

    def load(self, library: Library, threads: int) -> bool:
        """Have the mapped matrices in memory; False: they are not the bytes that were written."""

        def is_whole(matrix: PackedMatrix) -> bool:
            return library.load(matrix.offset, matrix.shape) == matrix.checksum

        with ThreadPoolExecutor(threads) as pool:
            return all(pool.map(is_whole, self.matrices.values()))

    def remove(self) -> None:
        """Delete them; they can be made again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def can_be_packed(library: Library, operator: ProductOperator, lent: LentWeights) -> bool:
    """Tell whether the kernels can have an operator's matrix, and its weights are at hand."""
    weights = {operator.codes, *filter(None, [operator.zero_points])}
    return weights <= lent.names and library.packed_bytes(_shape(operator, float32_scales=False)) > 0


def read_packed_products(folder: Path, names: Set[str] | None = None) -> PackedProducts | None:
    """Read what `pack_products` has written, and mark it as used; None if there is nothing, or nothing whole.

    names: of the codes of all matrices; None: whatever is there. The file's content is not read: `load` does that.
    """
    found = read_sealed(folder / INDEX)
    try:
        if found is None or (folder / _MATRICES).stat().st_size != found["size"]:
            return None
        if names is not None and names != found["matrices"].keys():
            return None
    except OSError:
        return None
    with suppress(OSError):  # a disk that is only read
        os.utime(folder / INDEX)
    matrices = {
        name: PackedMatrix(each["offset"], MatrixShape(**each["shape"]), each["checksum"])
        for name, each in found["matrices"].items()
    }
    return PackedProducts(folder, matrices)


def pack_products(
    folder: Path,
    model: bytes,
    operators: Sequence[ProductOperator],
    lent: LentWeights,
    options: Options,
    library: Library,
    threads: int,
    verify: Callable[[], object],
) -> PackedProducts:
    """Pack the matrices of `operators` into `folder`, which appears whole; verify: checks the weights meanwhile.

    ResourceError: the disk is full, or cannot be written.
    """
    with writable(folder, ADVICE), partial_folder(folder) as partial:
        matrices: dict[str, PackedMatrix] = {}
        size = 0
        with (partial / _MATRICES).open("wb") as file:
            for operator, (shape, packed) in _all_packed(model, operators, lent, options, library, threads):
                matrices[operator.codes] = PackedMatrix(size, shape, library.checksum(packed))
                file.write(packed.data)
                size += packed.size
        index = {"size": size, "matrices": {name: asdict(matrix) for name, matrix in matrices.items()}}
        verify()
        write_sealed(partial / INDEX, index, ADVICE)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return PackedProducts(folder, matrices)


def _all_packed(
    model: bytes,
    operators: Sequence[ProductOperator],
    lent: LentWeights,
    options: Options,
    library: Library,
    threads: int,
) -> Iterator[tuple[ProductOperator, tuple[MatrixShape, NDArray[np.uint8]]]]:
    """Yield the operators in turn with their packed matrices, a few ahead of the one that is asked for.

    A matrix is overwritten once the next one is asked for: pages of memory cost as much time as what is put into them.
    """
    models, free = ScalesOf(model), list[NDArray[np.uint8]]()
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[tuple[ProductOperator, Future[tuple[MatrixShape, NDArray[np.uint8]]]]] = []
        for operator in operators:
            ahead.append((operator, pool.submit(_packed, models, operator, lent, options, library, free)))
            if len(ahead) > threads:
                first, future = ahead.pop(0)
                shape, room = future.result()
                yield first, (shape, room[: library.packed_bytes(shape)])
                free.append(room)
        for first, future in ahead:
            shape, room = future.result()
            yield first, (shape, room[: library.packed_bytes(shape)])


def _packed(
    models: ScalesOf,
    operator: ProductOperator,
    lent: LentWeights,
    options: Options,
    library: Library,
    free: list[NDArray[np.uint8]],
) -> tuple[MatrixShape, NDArray[np.uint8]]:
    """Pack a matrix into the begin of an array: of one that is `free`, if the last of them is large enough."""
    scales = _scales(models, operator, options)
    shape = _shape(operator, float32_scales=not library.are_float16(scales))
    size = library.packed_bytes(shape)
    room = free.pop() if free else None
    if room is None or room.size < size:
        room = aligned_bytes(size)
    zero_points = None if operator.zero_points is None else lent.array(operator.zero_points)
    library.pack(shape, lent.array(operator.codes), scales, zero_points, room[:size])
    return shape, room


def _scales(models: ScalesOf, operator: ProductOperator, options: Options) -> NDArray[np.float32]:
    """Compute the scales as onnxruntime does when it loads the graph: there is little to gain by changing it."""
    computing = models.computing(operator)
    chosen = options(graph_names(computing)[1])
    chosen.intra_op_num_threads, chosen.graph_optimization_level = 1, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(computing, chosen, providers=["CPUExecutionProvider"])
    (scales,) = session.run(None, {})
    return np.ascontiguousarray(scales)


def _shape(operator: ProductOperator, *, float32_scales: bool) -> MatrixShape:
    symmetric = operator.zero_points is None
    return MatrixShape(operator.rows, operator.width, operator.group_size, operator.bits, symmetric, float32_scales)
