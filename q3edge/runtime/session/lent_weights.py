"""`LentWeights`: the file of weights, mapped by this process and lent to onnxruntime.

Packing weights on all threads takes less time, but onnxruntime then holds every page of the file that it has read until
the last matrix is packed: all weights twice. Of a mapping of one's own, pages that were read can be let go of.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnxruntime as ort

from q3edge.runtime.session.onnx_references import ExternalTensor

# Of TensorProto.DataType, those that exports use. A tensor of another type is onnxruntime's to read.
_DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    10: np.dtype(np.float16),
}
_INTERVAL = 0.02  # seconds; two threads pack about 30 MB meanwhile


class LentWeights:
    """Tensors in one file, for as long as this object lives."""

    def __init__(self, path: Path, tensors: Iterable[ExternalTensor]) -> None:
        """Map `path`; of `tensors`, those that lie in it and whose type and size are understood will be lent."""
        self._tensors: dict[str, ort.OrtValue] = {}
        self._file: mmap.mmap | None = None
        inside = [data for data in tensors if data.location == path.name and _size(data) == data.length]
        if not inside:
            return
        with path.open("rb") as file:
            self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for data in inside:
            values = np.frombuffer(self._file, _DTYPES[data.data_type], math.prod(data.shape), data.offset)
            self._tensors[data.tensor] = ort.OrtValue.ortvalue_from_numpy(values.reshape(data.shape))

    @property
    def names(self) -> frozenset[str]:
        """The tensors that are lent."""
        return frozenset(self._tensors)

    def lend(self, options: ort.SessionOptions) -> None:
        """Let a session take its initializers from here; it must not outlive this object."""
        for name, value in self._tensors.items():
            options.add_initializer(name, value)

    @contextmanager
    def drop_read_pages(self) -> Iterator[None]:
        """Pages that any thread reads inside do not stay resident; read again, they come from the page cache."""
        file = self._file
        if file is None or not hasattr(mmap, "MADV_DONTNEED"):  # Windows
            yield
            return
        done = Event()

        def drop() -> None:
            finished = False
            while not finished:
                finished = done.wait(_INTERVAL)
                file.madvise(mmap.MADV_DONTNEED)

        thread = Thread(target=drop)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _size(data: ExternalTensor) -> int | None:
    """Bytes of a tensor; None if onnxruntime is to read it."""
    dtype = _DTYPES.get(data.data_type)
    return None if dtype is None or 0 in data.shape else math.prod(data.shape) * dtype.itemsize
