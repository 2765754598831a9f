"""The evaluation cache: where it lies, and files in it that are whole or absent.

Keys say what decides the content: a key is never reused for something else, so nothing in the cache grows stale, and
deleting any of it costs only the time to make it again. No entry is removed by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import InputError, ResourceError
from q3edge.evaluation.scorecard.scorecard import Scorecard, scorecard_from_json


def cache_folder() -> Path:
    """$Q3EDGE_CACHE, else $XDG_CACHE_HOME/q3edge, else ~/.cache/q3edge; in it: evaluations."""
    if own := os.environ.get("Q3EDGE_CACHE"):
        return Path(own).expanduser() / "evaluations"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "q3edge" / "evaluations"


def cache_key(**parts: Any) -> str:
    """Hex sha256 of JSON values by name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EvaluationCache:
    """Three kinds of files below `folder`: finished scorecards, hidden states of float models, and journals.

    ResourceError, from whatever writes: the disk is full or cannot be written.
    """

    folder: Path

    def scorecard(self, key: str) -> Scorecard | None:
        """A finished evaluation; None where there is none, or one that this q3edge cannot read."""
        try:
            return scorecard_from_json(json.loads(self._path("scorecards", key, "json").read_text(encoding="utf-8")))
        except (OSError, ValueError, InputError):
            return None

    def save_scorecard(self, key: str, scorecard: Scorecard) -> None:
        """Keep a finished evaluation."""
        text = json.dumps(scorecard.to_json(), ensure_ascii=False, allow_nan=False)
        with self._replacing(self._path("scorecards", key, "json")) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def hidden(self, key: str, tokens: int) -> NDArray[np.float32] | None:
        """Hidden states float32 [tokens, H], read as they are needed; None where there are none, or damaged ones."""
        try:
            found: NDArray[np.float32] = np.load(self._path("hidden", key, "npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        return found if found.dtype == np.float32 and found.ndim == 2 and len(found) == tokens else None

    def save_hidden(self, key: str, states: NDArray[np.float32]) -> None:
        """Keep hidden states float32 [tokens, H]."""
        with self._replacing(self._path("hidden", key, "npy")) as temporary, temporary.open("wb") as file:
            np.save(file, states)

    def journal_file(self, key: str) -> Path:
        """Where the journal of an unfinished evaluation lies; its folder exists."""
        return self._with_folder(self._path("unfinished", key, "jsonl"))

    def answers_file(self, artifact_digest: str) -> Path:
        """Where everything that a model answered is kept; its folder exists."""
        return self._with_folder(self._path("answers", artifact_digest, "jsonl"))

    def _with_folder(self, path: Path) -> Path:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.folder / kind / f"{key}.{suffix}"

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """A name to write to, which takes the place of `path` when the block ends well and is on the disk."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """ResourceError that names `path` and the way out, where the system refuses what the block does."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror}); free space, set Q3EDGE_CACHE, or add --no-cache"
        ) from error
