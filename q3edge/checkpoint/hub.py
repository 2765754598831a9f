"""Resolution of the MODEL argument to a local path: itself, or the folder of a Hugging Face hub repository."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact.side_files import SIDE_FILES
from q3edge.checkpoint.safetensors.shards import INDEX_FILE
from q3edge.checkpoint.unsupported import ADAPTER_CONFIG_FILE
from q3edge.errors import InputError, ResourceError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (CONFIG_FILE, "*.safetensors", INDEX_FILE, ADAPTER_CONFIG_FILE, *SIDE_FILES)
_ARTIFACT_FILES = ("*.json", "*.jinja", "*.toml", "*.txt", "*.md", "LICENSE*", "onnx/*")


def resolve_model(model: str | Path) -> Path:
    """Resolve `model` to a path: itself if it exists, else the hub's `org/name`, from its cache or downloaded.

    The cache and HF_HUB_OFFLINE are huggingface_hub's own. InputError: neither a path nor available from the hub.
    """
    if not isinstance(model, str | Path):
        raise TypeError(f"model is {type(model).__name__}: pass a folder (str or Path) or a hub id (str)")
    path = Path(model).expanduser()
    if model and os.path.exists(path):  # False also for what cannot be a path; Path("") would be the current folder
        return path
    if not isinstance(model, str) or not _REPOSITORY.fullmatch(model):
        raise InputError(f"{model}: not found; expected a model folder or a hub id such as Qwen/Qwen3-0.6B")
    return _download(model)


def resolve_artifact(path_or_id: str) -> Path:
    """Resolve the folder of a finished ONNX model: `path_or_id` itself, or the hub's repository `org/name`.

    InputError: it looks like a hub id, is no folder, and is not available from the hub.
    """
    folder = Path(path_or_id).expanduser()
    if folder.exists() or not _REPOSITORY.fullmatch(path_or_id):
        return folder
    return _download(path_or_id, _ARTIFACT_FILES)


def _download(repository: str, files: Sequence[str] = _FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(files)))
    except GatedRepoError as error:
        raise InputError(f"{repository}: needs permission; accept its terms, then `hf auth login`") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"{repository}: no such folder and no such model on the hub; check the name") from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{repository}: no such folder, not in the hub's local cache, and the hub cannot be reached (offline, or "
            f"HF_HUB_OFFLINE is set); run `hf download {repository}` where there is a network, or give a model folder"
        ) from error
    except Exception as error:  # the transport's own types, which change with the library's version
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError(f"{repository}: no space left for the hub's cache; free some or set HF_HOME") from error
        raise InputError(
            f"{repository}: the download failed ({type(error).__name__}); repeat it, or give a model folder"
        ) from error
    if not any((folder / name).exists() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        raise InputError(
            f"{repository}: has no {CONFIG_FILE} on the hub, as where only GGUF files are; expected one of safetensors "
            "weights, such as Qwen/Qwen3-0.6B"
        )
    return folder
