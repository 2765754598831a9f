"""Digests, hex sha256, of what is no single file: JSON values, and sequences of parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def json_digest(value: object) -> str:
    """Digest of a JSON value; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parts_digest(parts: Iterable[bytes]) -> str:
    """Digest of parts in their order, each with its length so that no two sequences look alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
