"""From what a person types as MODEL to a local folder: a path, or a repository on the Hugging Face hub."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact.side_files import SIDE_FILES
from q3edge.checkpoint.safetensors.shards import INDEX_FILE
from q3edge.errors import InputError, ResourceError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (CONFIG_FILE, "*.safetensors", INDEX_FILE, *SIDE_FILES)


def resolve_model(model: str) -> Path:
    """The folder of `model`: itself where it exists, else the hub's `org/name` from its cache or downloaded.

    The cache and HF_HUB_OFFLINE are huggingface_hub's own. InputError: neither a folder nor to be had from the hub.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():  # Path("") would be the current folder
        return folder
    if folder.is_file():
        raise InputError(f"{model}: is a file; expected a model folder or a hub id such as Qwen/Qwen3-0.6B")
    if not _REPOSITORY.fullmatch(model):
        raise InputError(f"{model}: not found; expected a model folder or a hub id such as Qwen/Qwen3-0.6B")
    return _download(model)


_ARTIFACT_FILES = ("*.json", "*.jinja", "*.toml", "*.txt", "*.md", "LICENSE*", "onnx/*")


def resolve_artifact(path_or_id: str) -> Path:
    """The folder of a finished ONNX model: `path_or_id` itself, or what the hub has under that `org/name`.

    InputError: it looks like a hub id, is no folder, and cannot be had from the hub.
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
        return Path(snapshot_download(repository, allow_patterns=list(files)))
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
