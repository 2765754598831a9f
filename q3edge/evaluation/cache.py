"""The evaluation cache: its folder, with atomically written files that carry checksums.

Keys say what decides the content, names of files say which code made it: an entry that other code made is never used,
and deleting any of it costs only the time to make it again. An entry is removed when other code makes it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError
from q3edge.evaluation.scorecard.scorecard import Scorecard, scorecard_from_json
from q3edge.storage.array_file import DamagedFileError, read_arrays, write_arrays
from q3edge.storage.code_digest import code_digest
from q3edge.storage.digests import json_digest
from q3edge.storage.kept_folder import kept_folder
from q3edge.storage.removal import remove_path
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import writable

ADVICE = "free space, set Q3EDGE_CACHE, or add --no-cache"
_READING = ("architecture", "checkpoint", "quantization", "reference", "storage")
_EVALUATING = (
    *_READING, "artifact", "evaluation", "exporters", "kernels", "languages", "pipeline.export", "pipeline.measure",
    "runtime",
)  # fmt: skip
_CODE: Mapping[str, tuple[str, ...]] = {  # what computes each kind of entry
    "answers": ("architecture", "artifact", "evaluation.answers", "kernels", "runtime", "storage"),
    "float": (*_READING, "artifact", "exporters", "pipeline.export"),
    "hidden": _READING,
    "measurements": (*_EVALUATING, "machine"),
    "scorecards": _EVALUATING,
    "unfinished": _EVALUATING,
}


def cache_folder() -> Path:
    """Folder of the cache."""
    return kept_folder("evaluations")


def cache_key(**parts: Any) -> str:
    """Key for JSON values by name: hex sha256."""
    return json_digest(parts)


@dataclass(frozen=True, slots=True)
class EvaluationCache:
    """Cache of scorecards, float models' hidden states and exports, measurements, answers and journals in `folder`.

    ResourceError, from every method that writes: the disk is full or cannot be written.
    """

    folder: Path

    def scorecard(self, key: str) -> Scorecard | None:
        """Load a finished evaluation; None if absent or damaged."""
        try:
            return scorecard_from_json(read_sealed(self._path("scorecards", key, ".json")))
        except InputError:
            return None

    def save_scorecard(self, key: str, scorecard: Scorecard) -> None:
        """Store a finished evaluation."""
        write_sealed(self._new("scorecards", key, ".json"), scorecard.to_json(), ADVICE)

    def hidden(self, key: str, tokens: int) -> NDArray[np.float32] | None:
        """Load hidden states float32 [tokens, H]; None if absent or damaged."""
        try:
            found: NDArray[np.float32] = read_arrays(self._path("hidden", key, ".bin"))[0]["states"]
        except (OSError, DamagedFileError):
            return None
        return found if len(found) == tokens else None

    def save_hidden(self, key: str, states: NDArray[np.float32]) -> None:
        """Store hidden states float32 [tokens, H]."""
        write_arrays(self._new("hidden", key, ".bin"), {"states": states}, advice=ADVICE)

    def measurement(self, key: str) -> Any:
        """Load a measured JSON value; None if absent or damaged."""
        return read_sealed(self._path("measurements", key, ".json"))

    def save_measurement(self, key: str, value: object) -> None:
        """Store a measured JSON value."""
        write_sealed(self._new("measurements", key, ".json"), value, ADVICE)

    def journal_file(self, key: str) -> Path:
        """Path of the journal of an unfinished evaluation; creates its folder."""
        return self._new("unfinished", key, ".jsonl")

    def answers_file(self, key: str) -> Path:
        """Path of the file with all generated answers of a model; creates its folder."""
        return self._new("answers", key, ".jsonl")

    def float_folder(self, model_digest: str) -> Path:
        """Path of the float export of a model, made or not; creates its parent folder."""
        return self._new("float", model_digest, "")

    def _new(self, kind: str, key: str, suffix: str) -> Path:
        """Path of an entry; creates its folder, and removes what other code made for the same key."""
        path = self._path(kind, key, suffix)
        with writable(path, ADVICE):
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob(f"{key}-*"):
                if other != path:
                    remove_path(other)
        return path

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.folder / kind / f"{key}-{code_digest(*_CODE[kind])[:16]}{suffix}"
