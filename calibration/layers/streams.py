"""Hidden states of all calibration sequences, spilled to disk, and work on them a few sequences at a time.

Files are read and written, not mapped: mapped pages would count as the process's memory. One thread works on one piece,
so results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from q3edge.reference.parallel import ordered_map

_TOKENS_AT_ONCE = 1024
_PARTIAL = ".partial"
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Tokens:
    """How the calibration tokens are laid out: the last `held_out` of `sequences` judge, the others are solved for.

    bfloat16: matrix products of the forward pass are done in bfloat16.
    """

    sequences: int
    length: int
    held_out: int
    bfloat16: bool

    @property
    def parts(self) -> list[slice]:
        """Ranges of sequences of about a thousand tokens, to work on at a time; none is partly held out."""
        train = self.sequences - self.held_out
        step = max(1, _TOKENS_AT_ONCE // self.length)
        starts = [*range(0, train, step), *range(train, self.sequences, step)]
        return [slice(start, end) for start, end in zip(starts, [*starts[1:], self.sequences])]

    def is_held_out(self, part: slice) -> bool:
        """Whether a range of `parts` judges."""
        return bool(part.start >= self.sequences - self.held_out)

    def map(self, function: Callable[[slice], Result], *, held_out: bool = False) -> Iterator[tuple[slice, Result]]:
        """(part, function(part)) for every part, or those that are held out, in order, on all cores."""

        @torch.no_grad()
        def run(part: slice) -> tuple[slice, Result]:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):  # a thread has settings of its own
                return part, function(part)

        return ordered_map(run, (part for part in self.parts if not held_out or self.is_held_out(part)))


class Stream:
    """float32 [sequences, length, width] in a file, read and written in ranges of sequences.

    The file carries a suffix until `commit` says that it is whole.
    """

    def __init__(self, path: Path, tokens: Tokens, width: int) -> None:
        """Open the file `path`, or create it under another name."""
        self._final = path
        self._path = path if path.exists() else path.with_name(path.name + _PARTIAL)
        self._sequences, self._shape = tokens.sequences, (tokens.length, width)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    @property
    def is_whole(self) -> bool:
        """Whether the file was committed and has its full length."""
        whole = self._offset(slice(self._sequences, None))
        return self._path == self._final and os.fstat(self._fd).st_size == whole

    def read(self, part: slice) -> torch.Tensor:
        """float32 [n, length, width]; OSError where the file is too short."""
        out = np.empty((part.stop - part.start, *self._shape), np.float32)
        view, offset = memoryview(out.reshape(-1).view(np.uint8).data), self._offset(part)
        while view:
            count = os.preadv(self._fd, [view], offset)
            if not count:
                raise OSError(f"{self._path}: shorter than expected")
            view, offset = view[count:], offset + count
        return torch.from_numpy(out)

    def write(self, part: slice, values: torch.Tensor) -> None:
        """Store float32 [n, length, width]."""
        flat = values.contiguous().view(-1).numpy()
        view, offset = memoryview(flat.view(np.uint8).data), self._offset(part)
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count

    def commit(self) -> None:
        """Wait until the disk has it and give it its name."""
        os.fsync(self._fd)
        self._path = self._path.rename(self._final)

    def close(self) -> None:
        """Close the file and leave it."""
        os.close(self._fd)

    def delete(self) -> None:
        """Close and remove the file."""
        self.close()
        self._path.unlink()

    def _offset(self, part: slice) -> int:
        return int(part.start) * self._shape[0] * self._shape[1] * 4


class Boundary:
    """Hidden states between two layers, or before the first or behind the last: the rounded model's, `own`.

    `target`: the float model's, beside them; None where nothing needs them. Both are whole, or the boundary is not.
    """

    def __init__(self, folder: Path, number: int, tokens: Tokens, width: int, *, with_target: bool) -> None:
        """Open the files of boundary `number`, or create them; width of the hidden states."""
        self.own = Stream(self._path(folder, "hidden", number), tokens, width)
        self.target = Stream(self._path(folder, "float", number), tokens, width) if with_target else None

    @classmethod
    def exists(cls, folder: Path, number: int) -> bool:
        """Whether the files of boundary `number` were committed, at least the first."""
        return cls._path(folder, "hidden", number).exists()

    @property
    def is_whole(self) -> bool:
        """Whether all files were committed and have their full length."""
        return all(stream.is_whole for stream in self._streams)

    def commit(self) -> None:
        """Wait until the disk has all and give the files their names."""
        for stream in self._streams:
            stream.commit()

    def close(self) -> None:
        """Close the files and leave them."""
        for stream in self._streams:
            stream.close()

    def delete(self) -> None:
        """Close and remove the files."""
        for stream in self._streams:
            stream.delete()

    @property
    def _streams(self) -> list[Stream]:
        return [self.own] if self.target is None else [self.own, self.target]

    @staticmethod
    def _path(folder: Path, name: str, number: int) -> Path:
        return folder / f"{name}-{number:04}.bin"
