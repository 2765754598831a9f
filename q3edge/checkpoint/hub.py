"""Resolution of the MODEL argument to a local path: itself, or the folder of a Hugging Face hub repository."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact.side_files import SIDE_FILES
from q3edge.checkpoint.safetensors.shards import INDEX_FILE
from q3edge.checkpoint.unsupported import ADAPTER_CONFIG_FILE
from q3edge.errors import InputError, Q3EdgeError, ResourceError, resumable

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (CONFIG_FILE, "*.safetensors", INDEX_FILE, ADAPTER_CONFIG_FILE, *SIDE_FILES)


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


def is_repository(name: str) -> bool:
    """Tell whether a text has the form of a hub id, ORG/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn what goes wrong with the hub inside the block into errors of q3edge; no address and no token is in them."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except Q3EdgeError:
        raise
    except GatedRepoError as error:
        raise InputError(f"{repository}: needs permission; accept its terms, then `hf auth login`") from error
    except LocalTokenNotFoundError as error:
        raise InputError(f"{repository}: you are not logged in to the hub; run `hf auth login` first") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{repository}: no such folder and no such model on the hub; check the name, and for a private one "
            "`hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{repository}: no such folder, not in the hub's local cache, and the hub cannot be reached (offline, or "
            f"HF_HUB_OFFLINE is set); run `hf download {repository}` where there is a network, or give a model folder"
        ) from error
    except EntryNotFoundError as error:
        raise InputError(f"{repository}: lacks a file on the hub that belongs to the model; push it again") from error
    except Exception as error:  # the transport's own types, which change with the library's version
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError(f"{repository}: no space left for the hub's cache; free some or set HF_HOME") from error
        status = (
            error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
        )
        if status in (401, 403):
            raise InputError(
                f"{repository}: the hub does not let you; check the name's owner, and `hf auth login` with a token "
                "that may write"
            ) from error
        raise InputError(
            f"{repository}: the transfer failed ({type(error).__name__}); repeat it: what is there is kept"
        ) from error


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    with resumable(), hub_errors(repository):
        folder = Path(snapshot_download(repository, allow_patterns=list(_FILES)))
    if not any((folder / name).exists() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        raise InputError(
            f"{repository}: has no {CONFIG_FILE} on the hub, as where only GGUF files are; expected one of safetensors "
            "weights, such as Qwen/Qwen3-0.6B"
        )
    return folder
