"""Cache of slow measurements, by everything that decides their result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from q3edge.evaluation.cache import EvaluationCache, cache_folder, cache_key
from q3edge.evaluation.plain_values import from_plain

Found = TypeVar("Found")


def cached_measurement(
    kind: type[Found], measure: Callable[[], Found], to_json: Callable[[Found], Any], *, cache: bool, **inputs: Any
) -> Found:
    """Return the measurement stored for exactly these `inputs` (JSON values), else call `measure` and store its result.

    kind: dataclass of the result. cache: False neither reads nor stores. ResourceError: the cache cannot be written.
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
