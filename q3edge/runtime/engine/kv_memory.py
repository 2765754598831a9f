"""How many tokens all keys and values together may be of, by the memory they may take."""

from __future__ import annotations

from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.errors import UsageError
from q3edge.machine.memory import free_memory

_SHARE = 2  # of the free memory, one part


def budget_tokens(spec: KVCacheSpec, kv_memory: int | None) -> int | None:
    """Tokens that fit `kv_memory` bytes (None: half of what is free now); None where that is unknown.

    UsageError: not even one fits.
    """
    each = spec.bytes_per_token()
    if kv_memory is None:
        free = free_memory()
        return None if free is None else max(free // _SHARE // each, 1)
    if kv_memory < each:
        raise UsageError(f"kv_memory = {kv_memory} bytes: one token takes {each}")
    return kv_memory // each
