"""`CalibrationSet`: the frozen tokens that a solver sees, and what the manifest records of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice
from q3edge.errors import InputError


@dataclass(frozen=True, slots=True)
class SourceCount:
    """One file: its name without folders and counts of its documents (long texts count as their passages).

    read = kept + all in `dropped` (reason -> documents); `areas` splits `kept`; `tokens` are those in the rows.
    """

    name: str
    areas: Mapping[str, int]
    read: int
    kept: int
    tokens: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSet:
    """Read-only int64 [samples, seq_len] token ids; `shares` and `languages` count the tokens really used."""

    token_ids: NDArray[np.int64]
    sources: tuple[SourceCount, ...]
    shares: Mapping[str, float]
    languages: Mapping[str, int]
    seed: int
    notices: tuple[Notice, ...]

    def __post_init__(self) -> None:
        self.token_ids.flags.writeable = False

    @classmethod
    def from_token_file(cls, path: Path, vocab_size: int) -> CalibrationSet:
        """Read token ids frozen elsewhere: a .npy of integers [samples, seq_len], used row by row as they are.

        InputError: not such a file, or ids outside 0..vocab_size - 1.
        """
        try:
            ids = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: cannot be read as a .npy file ({error})") from None
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
            raise InputError(f"{path}: {ids.dtype} {list(ids.shape)}; expected integers [samples, seq_len]")
        if not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise InputError(f"{path}: token ids {ids.min()}..{ids.max()}; expected 0..{vocab_size - 1}")
        source = SourceCount(path.name, {}, len(ids), len(ids), ids.size, {})
        return cls(ids.astype(np.int64), (source,), {}, {}, 0, ())

    @property
    def digest(self) -> str:
        """Hex sha256 of the shape (two little-endian int64) and the ids (little-endian int32, row by row)."""
        shape = np.array(self.token_ids.shape, "<i8").tobytes()
        return hashlib.sha256(shape + self.token_ids.astype("<i4").tobytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON object for the manifest: what was used and in which shares; no token ids, folders or dates."""
        samples, seq_len = self.token_ids.shape
        return {
            "digest": self.digest,
            "samples": samples,
            "seq_len": seq_len,
            "seed": self.seed,
            "sources": [asdict(source) for source in self.sources],
            "shares": dict(self.shares),
            "languages": dict(self.languages),
        }
