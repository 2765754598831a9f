"""JSON values with a checksum: a damaged value is never read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from q3edge.storage.regular_files import read_regular
from q3edge.storage.whole_files import ADVICE, write_whole


def sealed(value: object) -> str:
    """Encode a value as one line of JSON, an object of the value and its sha256."""
    return json.dumps({"sha256": _checksum(value), "value": value})


def unsealed(content: str | bytes) -> Any:
    """Decode a value that `sealed` encoded. ValueError: the content is damaged or anything else."""
    try:
        raw = json.loads(content)
        if raw["sha256"] == _checksum(raw["value"]):
            return raw["value"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError("damaged: not a JSON value with its sha256")


def write_sealed(path: Path, value: object, advice: str = ADVICE) -> None:
    """Replace the file atomically by the value and its checksum. ResourceError, with `advice`: it cannot be written."""
    write_whole(path, sealed(value) + "\n", advice)


def read_sealed(path: Path) -> Any:
    """Read the value that was written; None if the file is missing or damaged."""
    try:
        return unsealed(read_regular(path))
    except (OSError, ValueError):
        return None


def _checksum(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
