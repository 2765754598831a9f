"""Resolution of the MODEL argument to a local path: itself, or the folder of a Hugging Face hub repository."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from q3edge import progress
from q3edge.architecture.config import CONFIG_FILE
from q3edge.artifact.side_files import SIDE_FILES
from q3edge.checkpoint.adapter import ADAPTER_CONFIG_FILE
from q3edge.checkpoint.known_models import hub_id_of, nearest_names
from q3edge.checkpoint.shards import INDEX_FILE
from q3edge.errors import InputError, Q3EdgeError, ResourceError, resumable

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GGUF = re.compile(rf"({_REPOSITORY.pattern})/([\w.-]+(?:/[\w.-]+)?\.gguf)", re.I)  # one file of a repository of many
_PART = re.compile(r"-\d{5}-of-(\d{5}\.gguf)$", re.I)
_FILES = (CONFIG_FILE, "*.safetensors", INDEX_FILE, ADAPTER_CONFIG_FILE, *SIDE_FILES)
_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # where there is nothing better


def resolve_model(model: str | Path) -> Path:
    """Resolve `model` to a path: itself if it exists, else the hub's `org/name`, from its cache or downloaded.

    A short name such as qwen3-0.6b stands for its hub id, and org/name/FILE.gguf is one file of a repository. The cache
    and HF_HUB_OFFLINE are huggingface_hub's own.
    InputError: neither a path nor available from the hub.
    """
    path, name = local_path(model), str(model)
    if path is not None:
        return path
    if file := _GGUF.fullmatch(name):
        return _download_file(file[1], file[2])
    if hub_id := hub_id_of(name):
        progress.note(f"note: {name} is {hub_id} on the hub")
    return _download(hub_id or name)


def parts_of(model: str | Path) -> tuple[str | Path, str | None]:
    """Divide BASE+ADAPTER into both; a model without an adapter, or a path with a + in its name, is whole.

    Of several + the last one divides where both sides are paths, else where ADAPTER is one, else the last of all.
    """
    if os.path.exists(Path(model).expanduser()) or "+" not in str(model).strip("+"):
        return model, None
    names = str(model).split("+")
    pairs = [("+".join(names[:at]), "+".join(names[at:])) for at in range(len(names) - 1, 0, -1)]
    there = [(base, adapter) for base, adapter in pairs if adapter and os.path.exists(Path(adapter).expanduser())]
    both = [(base, adapter) for base, adapter in there if base and os.path.exists(Path(base).expanduser())]
    return (both or there or pairs)[0]


def local_path(model: str | Path) -> Path | None:
    """Find the path that `model` is; None: there is none, but it may be a hub id, or stand for one.

    InputError: it is neither.
    """
    if not isinstance(model, str | Path):
        raise TypeError(f"model is {type(model).__name__}: pass a folder (str or Path) or a hub id (str)")
    path = Path(model).expanduser()
    if model and os.path.exists(path):  # False also for what cannot be a path; Path("") would be the current folder
        return path
    if not isinstance(model, str) or not (_REPOSITORY.fullmatch(model) or _GGUF.fullmatch(model) or hub_id_of(model)):
        near = [] if os.sep in str(model) else nearest_names(str(model))
        raise InputError(
            f"{model}: not found; expected a model folder or a hub id such as Qwen/Qwen3-0.6B"
            + (f", or a name of `q3edge zoo`, such as {', '.join(near)}" if near else "")
        )
    return None


def is_repository(name: str) -> bool:
    """Tell whether a text has the form of a hub id, ORG/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


class Repository:
    """A repository of the hub, or what the hub's cache has of it where the hub cannot be reached.

    The hub is asked once and before anything is loaded, for at most the 10 s of HF_HUB_ETAG_TIMEOUT: the library
    would repeat each request for half a minute. Use inside `hub_errors`; raises the errors of huggingface_hub.
    """

    def __init__(self, name: str) -> None:
        """Ask the hub."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        self._name = name
        self._files: frozenset[str] | None = None
        self._cached_only = self._unreachable = False
        try:
            found = HfApi().model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            if found.siblings is not None:
                self._files = frozenset(file.rfilename for file in found.siblings)
        except (HfHubHTTPError, HFValidationError):
            pass  # an answer: the library makes an error of it, unless its cache has the files
        except OfflineModeIsEnabled:
            self._cached_only = True
        except Exception:  # the transport's own types, which change with the library's version
            self._cached_only = self._unreachable = True

    def lacks(self, file: str) -> bool:
        """Tell whether the hub says that there is no such file."""
        return self._files is not None and file not in self._files

    def may_have(self, pattern: str) -> bool:
        """Tell whether a file matches `pattern`, as far as is known."""
        return self._files is None or bool(self.matching(pattern))

    def matching(self, pattern: str) -> list[str]:
        """Names of the files that match `pattern`, none where they are not known."""
        return sorted(file for file in self._files or () if fnmatchcase(file, pattern))

    def folder(self, files: Sequence[str]) -> Path:
        """Find the folder in the hub's cache with the files that match `files`, which are loaded first."""
        from huggingface_hub import snapshot_download

        found = snapshot_download(self._name, allow_patterns=list(files), local_files_only=self._cached_only)
        if self._unreachable:
            progress.note(f"note: {self._name}: the hub cannot be reached, so what its cache has is used")
            self._unreachable = False
        return Path(found)


@contextmanager
def hub_errors(repository: str, download: str = "hf download") -> Iterator[None]:
    """Turn what goes wrong with the hub inside the block into errors of q3edge; no address and no token is in them.

    download: the command that brings the repository into the hub's cache. The library's own lines of warning are not
    shown, unless HF_HUB_VERBOSITY asks for some.
    """
    with _quiet_library(), _hub_errors(repository, download):
        yield


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Hold back warnings of huggingface_hub, which name addresses and what its own commands would do."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    level = get_verbosity()
    if "HF_HUB_VERBOSITY" not in os.environ:
        set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(level)


@contextmanager
def _hub_errors(repository: str, download: str) -> Iterator[None]:
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
            f"HF_HUB_OFFLINE is set); run `{download} {repository}` where there is a network, or give a model folder"
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
    with resumable(), hub_errors(repository):
        found = Repository(repository)
        folder = found.folder(_FILES if found.may_have("*.safetensors") else (*_FILES, *_PICKLES))
    if not any((folder / name).exists() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        files = found.matching("*.gguf")
        if files:
            raise InputError(f"{repository}: holds GGUF files; give one of them, such as {repository}/{files[0]}")
        raise InputError(f"{repository}: has no {CONFIG_FILE} on the hub; expected a model such as Qwen/Qwen3-0.6B")
    return folder


def _download_file(repository: str, file: str) -> Path:
    """Find a GGUF file of a repository in the hub's cache, loaded first, with the other parts of a model in several."""
    with resumable(), hub_errors(repository):
        folder = Repository(repository).folder([_PART.sub(r"-*-of-\1", file)])
    if not (folder / file).is_file():
        raise InputError(f"{repository}: has no {file} on the hub; check the file's name")
    return folder / file
