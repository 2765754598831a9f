"""`TensorFolder`: config.json and files of tensors as one model, with exactly the expected tensors."""

from __future__ import annotations

import os
import platform
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from q3edge.architecture.config import CONFIG_FILE, EMBEDDING_ARCHITECTURE, Qwen3Config
from q3edge.architecture.tensors import LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.artifact.sentence_files import stated_kind
from q3edge.checkpoint.config_notices import config_notices
from q3edge.checkpoint.shards import INDEX_FILE, Shards, first_names
from q3edge.checkpoint.source import ModelFolder
from q3edge.checkpoint.tensor_files import Entry, Expected, TensorFiles
from q3edge.checkpoint.text_part import text_config
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

Folder = TypeVar("Folder", bound="TensorFolder")


class TensorFolder(ModelFolder):
    """Base of the readers of model folders; nothing but headers is kept in memory."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read config.json and the headers and check that the model is complete; InputError otherwise."""
        return cls(folder, read_json_object(folder / CONFIG_FILE))

    def __init__(self, folder: Path, raw_config: Mapping[str, Any]) -> None:
        whole, raw_config = raw_config, text_config(raw_config, str(folder / CONFIG_FILE))
        self._folder, self._raw_config, self._has_vision = folder, raw_config, whole is not raw_config
        if stated_kind(self.side_folder) == "embedding":  # Qwen3-Embedding's own config.json says Qwen3ForCausalLM
            self._raw_config = {**raw_config, "architectures": [EMBEDDING_ARCHITECTURE]}
        self._config = Qwen3Config.from_dict(self._raw_config, self._config_source)
        self._notices = [*config_notices(self.side_folder, raw_config, self._config)]
        self._files = self._open_files()
        self._digest: str | None = None
        try:
            self._check(raw_config)
            self._notices += _absent_notice(self._files)
        except BaseException:
            self.close()
            raise

    def _open_files(self) -> TensorFiles:
        return Shards(self._folder)

    @abstractmethod
    def _check(self, raw_config: Mapping[str, Any]) -> None:
        """Raise InputError unless the files hold what the format needs; adds to `_notices`."""

    @property
    def folder(self) -> Path:
        """Path that the model was opened from: its folder, or its file."""
        return self._folder

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of all files that the model is read from."""
        return (self._folder,)

    @property
    def side_folder(self) -> Path:
        """Folder of the tokenizer and the other files beside the weights; gone when the model is closed."""
        return self._folder

    @property
    def _config_source(self) -> str:
        """File that the configuration comes from, for errors."""
        return str(self._folder / CONFIG_FILE)

    @property
    def _asking(self) -> str:
        """Name of what the configuration comes from, for errors about tensors."""
        return CONFIG_FILE

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""
        return self._config

    @property
    def raw_config(self) -> Mapping[str, Any]:
        """Fields of config.json, with those replaced that are not what the model is read as."""
        return self._raw_config

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Notices of what was accepted although unusual."""
        return tuple(self._notices)

    def names(self) -> tuple[str, ...]:
        """Names of the model's tensors, in the order of the forward pass."""
        return tuple(tensor_shapes(self.config))

    def dtype_counts(self) -> dict[str, int]:
        """Number of tensors of each stored dtype."""
        return dict(sorted(Counter(map(self.dtype, self.names())).items()))

    @property
    def stored_bytes(self) -> int:
        """Total size of the weight files."""
        return self._files.stored_bytes

    def digest(self) -> str:
        """Digest of the model: hex sha256 over the sha256 of config.json and every weight file; reads all of them."""
        return self._files.digest()

    def close(self) -> None:
        """Close the weight files; later reads fail."""
        self._files.close()

    @classmethod
    def open_again(cls, folder: Path, *others: Path) -> Self:
        """Open a model by its `folders`, the last of which may be in other places than they were."""
        return cls.open(folder)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[type[Self], str, tuple[Path, ...]]]:
        return _same_model, (type(self), self._known_digest(), tuple(folder.absolute() for folder in self.folders))

    def _known_digest(self) -> str:
        """Digest, read once: whoever asks again for it makes sure that the files are as they were."""
        if self._digest is None:
            self._digest = self.digest()
        return self._digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()


@cache
def _same_model(reader: type[Folder], digest: str, folders: tuple[Path, ...]) -> Folder:
    """Open a model that another process has open; `digest`: what it is there.

    InputError: it is not here, or differs. The environment variable Q3EDGE_CHECKPOINT names a folder to take instead.
    """
    folder = Path(os.environ.get("Q3EDGE_CHECKPOINT", folders[0]))
    found = reader.open_again(folder, *folders[1:])
    if found.digest() != digest:
        found.close()
        raise InputError(f"{folder} on {platform.node()}: is not the model that the work is on; copy that one there")
    return found


def check_tensors(
    files: TensorFiles, stored: Mapping[str, str], expected: Mapping[str, Expected], asking: str = CONFIG_FILE
) -> None:
    """Raise InputError if the tensors `stored` (canonical -> stored name) are not exactly those `expected`.

    asking: name of what the configuration comes from.
    """
    folder = files.folder
    if missing := [name for name in expected if name not in stored]:
        raise InputError(f"{folder}{_missing(missing, stored, expected, asking)}")
    if unexpected := [name for name in stored if name not in expected]:
        raise InputError(
            f"{folder}: {len(unexpected)} tensors do not belong to the model of {asking}: "
            f"{first_names(unexpected)}; expected a plain Qwen3 checkpoint (merge adapters first)"
        )
    entries = files.entries
    for name, (dtypes, shape) in expected.items():
        _check_entry(f"{files.path_of(stored[name])} ({name})", entries[stored[name]], dtypes, shape, asking)


def _missing(missing: list[str], stored: Mapping[str, str], expected: Mapping[str, Expected], asking: str) -> str:
    if missing == [LM_HEAD]:
        return (
            f" ({LM_HEAD}): missing, and config.json does not tie it to the embedding (tie_word_embeddings is "
            "false or absent); download the checkpoint again or correct config.json"
        )
    if len(missing) == len(expected):
        return (
            f": has none of the {len(expected)} tensors that {asking} asks for, but {first_names(stored.values())}; "
            f"expected a plain Qwen3 checkpoint with names such as {missing[0]}"
        )
    return (
        f": {len(missing)} tensors that {asking} asks for are missing: {first_names(missing)}; "
        "the checkpoint is incomplete, download it again"
    )


def _check_entry(where: str, entry: Entry, dtypes: tuple[str, ...], shape: tuple[int, ...], asking: str) -> None:
    if entry.shape != shape:
        raise InputError(f"{where}: shape {list(entry.shape)}, {asking} asks for {list(shape)}")
    if entry.dtype not in dtypes:
        raise InputError(f"{where}: dtype {entry.dtype}, expected {' or '.join(dtypes)}; convert the checkpoint")


def _absent_notice(files: TensorFiles) -> list[Notice]:
    """Notice if the index names tensors that no file has and the model does not need, such as a tied head."""
    if not files.absent:
        return []
    detail = f"{INDEX_FILE} names tensors that no file has and the model does not need: {first_names(files.absent)}"
    return [Notice("index-names-absent", len(files.absent), detail)]
