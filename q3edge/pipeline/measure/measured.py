"""Measurements that took long, kept in the cache so that the same question is not measured twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from q3edge.evaluation.cache import cache_folder, cache_key, writing
from q3edge.evaluation.plain_values import from_plain

Found = TypeVar("Found")


def known_or_measured(
    kind: type[Found], measure: Callable[[], Found], to_json: Callable[[Found], Any], *, cache: bool, **inputs: Any
) -> Found:
    """What was stored for exactly these `inputs` (JSON values), else what `measure` gives, which is then stored.

    kind: a dataclass; cache False neither reads nor stores. ResourceError: the cache cannot be written.
    """
    path = cache_folder().with_name("measurements") / f"{cache_key(kind=kind.__name__, **inputs)}.json"
    if cache and (found := _read(kind, path)) is not None:
        return found
    found = measure()
    if cache:
        _write(path, json.dumps(to_json(found), allow_nan=False))
    return found


def _read(kind: type[Found], path: Path) -> Found | None:
    try:
        return from_plain(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # absent, damaged, or of another q3edge


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
