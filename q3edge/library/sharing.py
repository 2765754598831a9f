"""Public functions about finished models elsewhere: push, pull, list_models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from q3edge.library.arguments import public
from q3edge.library.requests import PathLike

if TYPE_CHECKING:
    from q3edge.pipeline.sharing import FoundModel


@public()
def push(
    folder: PathLike,
    repository: str,
    *,
    private: bool = False,
    base_model: str | None = None,
    license_name: str | None = None,
) -> int:
    """Upload the ONNX model in `folder` to the hub's `repository` ("org/name"), made if missing; returns its bytes.

    The README there gets front matter with what was measured; base_model ("org/name") and license_name are in it (None:
    as far as they are known from the checkpoint). private: for a new repository. Only the model's own files are sent,
    after a check of each. The token is huggingface_hub's own (`hf auth login`, HF_TOKEN).
    Raises InputError, UsageError.
    """
    from q3edge.pipeline.sharing import push_artifact

    return push_artifact(Path(folder), repository, private=private, base_model=base_model, license_name=license_name)


@public()
def pull(repository: str, output: PathLike | None = None, *, overwrite: bool = False) -> Path:
    """Download an ONNX model of the hub ("org/name") into the hub's cache and check it; returns its folder.

    output: a folder for a copy of it, which is then returned. Raises InputError, UsageError, ResourceError.
    """
    from q3edge.pipeline.sharing import pull_artifact

    return pull_artifact(repository, None if output is None else Path(output), overwrite=overwrite)


@public()
def list_models(folder: PathLike = ".") -> list[FoundModel]:
    """List the finished ONNX models in `folder` and two levels below it, and in the hub's cache; needs no network."""
    from q3edge.pipeline.sharing import find_models

    return find_models(Path(folder))
