"""Public functions about this machine and what is kept on it: doctor, list_cache, clear_cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from q3edge.library.arguments import public

if TYPE_CHECKING:
    from q3edge.pipeline.doctor import Diagnosis
    from q3edge.storage.kept_folder import KeptEntry


@public()
def doctor() -> Diagnosis:
    """Tell what this machine and installation have, and whether it works: `problems` of the result is empty if so.

    CPU, memory, onnxruntime, kernels with a small test of each, optional parts, and the folder of what is kept.
    """
    from q3edge.pipeline.doctor import examine

    return examine()


@public()
def list_cache(kind: str | None = None) -> list[KeptEntry]:
    """List what is kept between runs, by kind ("kernels", "experts", "evaluations"; None: all), longest unused first.

    Needs no model. Raises UsageError.
    """
    from q3edge.storage.kept_folder import KINDS, kept_entries

    return [entry for each in ([kind] if kind else KINDS) for entry in kept_entries(each)]


@public()
def clear_cache(kind: str | None = None) -> list[KeptEntry]:
    """Remove what is kept of one kind (None: of all), all of which can be made again; returns what is gone.

    Processes that use it go on. Raises ResourceError if something stays: another process is making it, or the disk
    refuses.
    """
    from q3edge.storage.kept_folder import KINDS, remove_all

    return remove_all([kind] if kind else list(KINDS))
