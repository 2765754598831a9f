"""Measurements that took long, kept in the cache so that the same question is not measured twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from q3edge.evaluation.cache import EvaluationCache, cache_folder, cache_key
from q3edge.evaluation.plain_values import from_plain

Found = TypeVar("Found")


def cached_measurement(
    kind: type[Found], measure: Callable[[], Found], to_json: Callable[[Found], Any], *, cache: bool, **inputs: Any
) -> Found:
    """What was stored for exactly these `inputs` (JSON values), else what `measure` gives, which is then stored.

    kind: a dataclass; cache False neither reads nor stores. ResourceError: the cache cannot be written.
    """
    if not cache:
        return measure()
    kept, key = EvaluationCache(cache_folder()), cache_key(kind=kind.__name__, **inputs)
    try:
        return from_plain(kind, kept.measurement(key))
    except TypeError:  # absent or damaged
        found = measure()
    kept.save_measurement(key, to_json(found))
    return found
