"""`CalibrationSet`: the frozen tokens that a solver sees, and what the manifest records of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice


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
