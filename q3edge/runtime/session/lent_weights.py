"""`LentWeights`: the file of weights, mapped by this process and lent to onnxruntime.

Packing weights on all threads takes less time, but onnxruntime then holds every page of the file that it has read until
the last matrix is packed: all weights twice. Pages of our own mapping can be released after reading.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.errors import InputError
from q3edge.runtime.session.onnx_references import ExternalTensor

# The types of TensorProto.DataType that exports use. onnxruntime itself reads a tensor of another type.
_DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    10: np.dtype(np.float16),
}
_INTERVAL = 0.02  # seconds; two threads pack about 30 MB meanwhile


# Makes options of a session that is lent the weights of these names.
Options = Callable[[frozenset[str]], ort.SessionOptions]


class LentWeights:
    """Tensors of one mapped file, valid for as long as this object lives."""

    def __init__(self, path: Path, tensors: Iterable[ExternalTensor]) -> None:
        """Map `path`; those of `tensors` that lie in it and have a known type and the right size will be lent."""
        tensors = tuple(tensors)
        self._path, self._places = path, {data.tensor: data for data in tensors}
        self._arrays: dict[str, NDArray[Any]] = {}
        self._tensors: dict[str, ort.OrtValue] = {}
        self._file: mmap.mmap | None = None
        inside = [data for data in tensors if data.location == path.name and _size(data) == data.length]
        if not inside:
            return
        with path.open("rb") as file:
            self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for data in inside:
            values = np.frombuffer(self._file, _DTYPES[data.data_type], math.prod(data.shape), data.offset)
            self._arrays[data.tensor] = values.reshape(data.shape)
            self._tensors[data.tensor] = ort.OrtValue.ortvalue_from_numpy(self._arrays[data.tensor])

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self._path.name

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors that are lent."""
        return frozenset(self._tensors)

    def array(self, name: str) -> NDArray[Any]:
        """A tensor, read from the file where it is used; KeyError: it is not lent."""
        return self._arrays[name]

    def lend(self, options: ort.SessionOptions, only: Container[str] | None = None) -> None:
        """Add the tensors, or `only` some, to a session's options; the session must not outlive this object."""
        for name, value in self._tensors.items():
            if only is None or name in only:
                options.add_initializer(name, value)

    def require_all(self, otherwise: str) -> None:
        """Raise InputError if onnxruntime has to read a tensor itself; otherwise: what is said then, with its name."""
        if missing := sorted(self._places.keys() - self.names):
            raise InputError(f"{self._path}: {otherwise.format(missing[0])}")

    def copy_to(self, folder: Path, names: Iterable[str]) -> list[tuple[int, int]]:
        """Make a file of the same name and size in `folder` that holds these tensors alone, and holes.

        Returns where they are: offset and length of each.
        """
        copied: list[tuple[int, int]] = []
        with (folder / self._path.name).open("wb") as file:
            file.truncate(self._path.stat().st_size)
            for name in sorted(self._places.keys() & names):
                data = self._places[name]
                if self._file is not None and data.length is not None:
                    file.seek(data.offset)
                    file.write(self._file[data.offset : data.offset + data.length])
                    copied.append((data.offset, data.length))
        return copied

    @contextmanager
    def folder(self, read: Callable[[], Iterable[str]] = tuple) -> Iterator[Path]:
        """Folder in which onnxruntime may look for the weights of a model that it gets as bytes.

        It refuses a file that is a link out of the folder, as in the hub's cache. All tensors being lent, a file of the
        same name will do that holds those which the graph computes with as it is loaded: `read` names them.
        InputError: a tensor cannot be lent.
        """
        if self._path.resolve().parent == self._path.parent.resolve():
            yield self._path.parent
            return
        self.require_all("is a link, and {!r} cannot be read through it; copy the folder")
        with TemporaryDirectory() as folder:
            self.copy_to(Path(folder), read())
            yield Path(folder)

    @contextmanager
    def drop_read_pages(self) -> Iterator[None]:
        """Release pages that any thread reads inside the block; read again, they come from the page cache."""
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

        # A signal may end `start` with the thread running: it is told to end then too, and holds no process up.
        thread = Thread(target=drop, daemon=True)
        try:
            thread.start()
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()


def _size(data: ExternalTensor) -> int | None:
    """Bytes of a tensor; None if onnxruntime itself reads it."""
    dtype = _DTYPES.get(data.data_type)
    return None if dtype is None or 0 in data.shape else math.prod(data.shape) * dtype.itemsize
