"""Hidden states of all calibration sequences, spilled to disk, and work on them a few sequences at a time.

Files are read and written, not mapped: mapped pages would count as the process's memory. One thread works on one piece,
and sums are formed block by block, so results depend neither on the number of threads nor on where a block is computed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
import torch

from q3edge.cluster.place import Rows, RowValues, present_place
from q3edge.progress import Advance, unheard
from q3edge.reference.parallel import ordered_map
from q3edge.storage.raw_bytes import bytes_of, read_at, read_up_to, write_at
from q3edge.storage.regular_files import BINARY
from q3edge.storage.whole_files import partial_path, writable

_TOKENS_AT_ONCE = 1024
_BLOCKS = 7  # of the sequences that are solved for: with the held-out eighth as one more, all are of one size
_ADVICE = "move it away or choose another disk"
Result = TypeVar("Result")


class Sum(Protocol):
    """Sum over tokens that is formed in blocks, such as Moments."""

    def add(self, inputs: torch.Tensor, *, held_out: bool) -> None:
        """Add tokens, float32 [T, K]."""

    def merge(self, later: Self) -> None:
        """Add the sum over the tokens that come after these; it is used up."""


Total = TypeVar("Total", bound=Sum)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Layout of the calibration tokens: the last `held_out` of `sequences` are held out, the others are solved for.

    bfloat16: matrix products of the forward pass are done in bfloat16.
    """

    sequences: int
    length: int
    held_out: int
    bfloat16: bool

    @property
    def count(self) -> int:
        """Number of all tokens."""
        return self.sequences * self.length

    @property
    def solved_for(self) -> int:
        """Number of the tokens that are not held out, which come first."""
        return (self.sequences - self.held_out) * self.length

    @property
    def parts(self) -> list[slice]:
        """Ranges of sequences of about a thousand tokens, to work on at a time; none is partly held out."""
        train = self.sequences - self.held_out
        step = max(1, _TOKENS_AT_ONCE // self.length)
        starts = [*range(0, train, step), *range(train, self.sequences, step)]
        return [slice(start, end) for start, end in zip(starts, [*starts[1:], self.sequences])]

    @property
    def blocks(self) -> list[Rows]:
        """All parts in blocks of consecutive ones, over which sums are formed; the held-out ones are one."""
        solved = [part for part in self.parts if not self.is_held_out(part)]
        held_out = self.parts[len(solved) :]
        edges = [number * len(solved) // _BLOCKS for number in range(_BLOCKS + 1)]
        blocks = [*(solved[start:stop] for start, stop in pairwise(edges)), held_out]
        return [block for block in blocks if block]

    def is_held_out(self, part: slice) -> bool:
        """Tell whether a range of `parts` is held out."""
        return bool(part.start >= self.sequences - self.held_out)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Compute a forward pass inside the block; for the thread that enters it, whose settings are its own."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            yield

    def map(self, function: Callable[[slice], Result], *, held_out: bool = False) -> Iterator[tuple[slice, Result]]:
        """Apply `function` to every part, or every held-out part, on all cores here; yields (part, result) in order."""
        return self._apply(function, [part for part in self.parts if not held_out or self.is_held_out(part)])

    def run(self, function: Callable[[slice], object], advance: Advance = unheard) -> None:
        """Apply `function`, which writes values of its rows, to every part, at the present place.

        advance: called with the number of sequences of every block that is done.
        """
        for _, block in zip(present_place().run_rows(partial(self._run, function), self.blocks), self.blocks):
            advance(_length(block))

    def sum(
        self, inputs: Callable[[slice], torch.Tensor], empty: Callable[[], Total], advance: Advance = unheard
    ) -> Total:
        """Sum over all tokens of their `inputs`, float32 [n, S, K] for a part, at the present place.

        Tokens of a block are added in order to a sum that `empty` makes, and the blocks' sums in order. advance: as for
        `run`.
        """
        total = empty()
        sums = present_place().run_rows(partial(self._sum, inputs, empty), self.blocks)
        for found, block in zip(sums, self.blocks):
            total.merge(found)
            advance(_length(block))
        return total

    def _run(self, function: Callable[[slice], object], blocks: Sequence[Rows]) -> Iterator[None]:
        for block in blocks:
            for _ in self._apply(lambda part: _discard(function(part)), block):
                pass
            yield None

    def _sum(
        self, inputs: Callable[[slice], torch.Tensor], empty: Callable[[], Total], blocks: Sequence[Rows]
    ) -> Iterator[Total]:
        values = self._apply(inputs, [part for block in blocks for part in block])
        for block in blocks:
            total = empty()
            for part, found in zip(block, (found for _, found in values)):
                total.add(found.flatten(0, 1), held_out=self.is_held_out(part))
                del found
            yield total

    def _apply(self, function: Callable[[slice], Result], parts: Sequence[slice]) -> Iterator[tuple[slice, Result]]:
        """Apply `function` to every part on all cores here; yields (part, result) in order."""

        def run(part: slice) -> tuple[slice, Result]:
            with self.forward():
                return part, function(part)

        return ordered_map(run, parts)


def _length(block: Rows) -> int:
    return int(block[-1].stop - block[0].start)


def _discard(_: object) -> None:
    """Drop a value that waits for nobody."""


class StateStream(RowValues):
    """Hidden states in a file, float32 [sequences, length, width], read and written in ranges of sequences.

    Its user deletes it at the end.
    """

    stays = False

    def __init__(self, path: Path, tokens: Tokens, width: int) -> None:
        """Open the file `path`, or create it under the name of a partial file. ResourceError: it cannot be opened."""
        self._final, self._tokens = path, tokens
        self._path = path if path.exists() else partial_path(path)
        self._shape = (tokens.length, width)
        with writable(self._path, _ADVICE):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)

    def read(self, part: slice) -> torch.Tensor:
        """Read float32 [n, length, width]; EOFError if the file is too short."""
        out = np.empty((part.stop - part.start, *self._shape), np.float32)
        read_at(self._fd, bytes_of(out), self._offset(part.start))
        return torch.from_numpy(out)

    def write(self, part: slice, values: torch.Tensor) -> None:
        """Store float32 [n, length, width]."""
        write_at(self._fd, bytes_of(values.contiguous().numpy()), self._offset(part.start))

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read float32 [n, width] of some tokens, int64 [n], counted through all sequences."""
        out = np.empty((len(tokens), self._shape[1]), np.float32)
        for row, token in zip(out, tokens.tolist()):
            read_at(self._fd, bytes_of(row), token * row.nbytes)
        return torch.from_numpy(out)

    def add(self, tokens: torch.Tensor, values: torch.Tensor) -> None:
        """Add float32 [n, width] to the stored values of different tokens, int64 [n], counted through all sequences."""
        sums = (self.gather(tokens) + values).numpy()
        for row, token in zip(sums, tokens.tolist()):
            write_at(self._fd, bytes_of(row), token * row.nbytes)

    def commit(self) -> None:
        """Flush to disk and give the file its final name."""
        os.fsync(self._fd)
        self._path = self._path.rename(self._final)

    def close(self) -> None:
        """Close the file and leave it."""
        os.close(self._fd)

    def delete(self) -> None:
        """Close and remove the file."""
        self.close()
        self._path.unlink()

    def _offset(self, sequence: int) -> int:
        return 4 * sequence * math.prod(self._shape)


class SpilledStream(StateStream):
    """A stream for a while: what is computed elsewhere may stay there."""

    stays = True


class CheckedStateStream(StateStream):
    """A stream that outlives the process: written in the parts of its tokens, followed by the sha256 of each part."""

    def __init__(self, path: Path, tokens: Tokens, width: int) -> None:
        """Open the file `path`, or create it under the name of a partial file."""
        super().__init__(path, tokens, width)
        self._checksums: dict[int, bytes] = {}  # of the parts that this process wrote, by their first sequence

    def write(self, part: slice, values: torch.Tensor) -> None:
        """Store float32 [n, length, width]; `part` is one of the tokens' parts."""
        super().write(part, values)
        self._checksums[part.start] = _checksum(values)

    def commit(self) -> None:
        """Write the checksums of all parts, flush to disk and give the file its final name."""
        checksums = b"".join(self._checksums[part.start] for part in self._tokens.parts)
        write_at(self._fd, checksums, self._offset(self._tokens.sequences))
        super().commit()

    @property
    def is_sound(self) -> bool:
        """True if the file was committed and every part is as it was written; reads all of it, a part at a time."""
        if self._path != self._final:
            return False
        try:
            checksums = b"".join(_checksum(self.read(part)) for part in self._tokens.parts)
        except EOFError:
            return False
        return read_up_to(self._fd, len(checksums) + 1, self._offset(self._tokens.sequences)) == checksums


class Boundary:
    """Hidden states between two layers, or before the first or after the last: `own` are the rounded model's.

    `target`: the float model's; None where they are not needed. The boundary is sound only if both are.
    """

    def __init__(self, folder: Path, number: int, tokens: Tokens, width: int, *, with_target: bool) -> None:
        """Open the files of boundary `number`, or create them; width of the hidden states."""
        self.own = CheckedStateStream(self._path(folder, "hidden", number), tokens, width)
        self.target = CheckedStateStream(self._path(folder, "float", number), tokens, width) if with_target else None

    @classmethod
    def exists(cls, folder: Path, number: int) -> bool:
        """Tell whether the files of boundary `number` were committed, at least the first."""
        return cls._path(folder, "hidden", number).exists()

    @property
    def is_sound(self) -> bool:
        """True if all files were committed and hold what was written; reads all of them."""
        return all(stream.is_sound for stream in self._streams)

    def commit(self) -> None:
        """Flush to disk and give the files their final names."""
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
    def _streams(self) -> list[CheckedStateStream]:
        return [self.own] if self.target is None else [self.own, self.target]

    @staticmethod
    def _path(folder: Path, name: str, number: int) -> Path:
        return folder / f"{name}-{number:04}.bin"


def _checksum(values: torch.Tensor) -> bytes:
    return hashlib.sha256(bytes_of(values.contiguous().numpy())).digest()
