"""`Checkpoint`: the float weights of a Qwen3 model folder, checked when opened and read on demand.

Owns what a complete model is: which tensors, their shapes and dtypes, and what is accepted with a notice. The files
are `safetensors.shards`; a folder that q3edge quantized is read by `compressed_tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE, Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES, TensorEntry
from q3edge.checkpoint.safetensors.shards import Shards, first_names
from q3edge.errors import InputError
from q3edge.storage.json_files import read_json_object

Expected = tuple[tuple[str, ...], tuple[int, ...]]  # dtypes allowed, shape
_QUANTIZED_SUFFIXES = (".weight_packed", ".qweight", ".weight_scale", ".weight_scale_inv", ".qzeros", ".absmax")
_ROTARY_BUFFER = "rotary_emb.inv_freq"
_ROWS_COMPARED = 1024


class ModelFolder:
    """What a float and a quantized checkpoint have in common: config.json, the weight files, their identity.

    `config`: the model; `folder`: where it lies; `notices`: what was accepted although unusual.
    """

    def __init__(self, folder: Path, raw_config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = Qwen3Config.from_dict(raw_config, str(folder / CONFIG_FILE))
        self.notices: tuple[Notice, ...] = _remote_code_notice(folder, raw_config)
        self._shards = Shards(folder)

    def close(self) -> None:
        """Close the weight files."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def names(self) -> tuple[str, ...]:
        """The model's tensors, in the order of the forward pass."""
        return tuple(tensor_shapes(self.config))

    @property
    def stored_bytes(self) -> int:
        """Total size of the weight files."""
        return self._shards.stored_bytes

    def digest(self) -> str:
        """sha256 over the sha256 of config.json and every weight file; reads all of them."""
        return self._shards.digest()


class Checkpoint(ModelFolder):
    """A WeightSource over config.json and safetensors files; nothing but headers is kept in memory."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the headers and check that the folder is a complete float Qwen3 model; InputError otherwise."""
        raw = read_json_object(folder / CONFIG_FILE)
        _refuse_quantized_config(folder, raw)
        return cls(folder, raw)

    def __init__(self, folder: Path, raw_config: Mapping[str, Any]) -> None:
        super().__init__(folder, raw_config)
        try:
            self._stored, notices = _canonical_names(self._shards)
            notices += _drop_redundant(self._stored, self._shards, self.config)
            expected = {name: (FLOAT_DTYPES, shape) for name, shape in tensor_shapes(self.config).items()}
            check_tensors(self._shards, self._stored, expected)
        except BaseException:
            self.close()
            raise
        self.notices += tuple(notices)

    def dtype(self, name: str) -> str:
        """Stored dtype: BF16, F16 or F32."""
        return self._shards.entries[self._stored[name]].dtype

    def scheme(self, name: str) -> None:
        """Every tensor of a float checkpoint is float."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """float32 values of a tensor or a range of its rows; InputError if any is NaN or infinite."""
        return self._shards.read_float(self._stored[name], rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> NoReturn:
        """TypeError: there are no codes to read."""
        raise TypeError(f"{name} is a float tensor")


def check_tensors(shards: Shards, stored: Mapping[str, str], expected: Mapping[str, Expected]) -> None:
    """InputError if the tensors `stored` (canonical -> stored name) are not exactly those `expected`."""
    folder = shards.folder
    missing = [name for name in expected if name not in stored]
    if missing == [LM_HEAD]:
        raise InputError(
            f"{folder} ({LM_HEAD}): missing, and config.json does not tie it to the embedding (tie_word_embeddings is "
            "false or absent); download the checkpoint again or correct config.json"
        )
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} tensors that config.json asks for are missing: {first_names(missing)}; "
            "the checkpoint is incomplete, download it again"
        )
    if unexpected := [name for name in stored if name not in expected]:
        raise InputError(
            f"{folder}: {len(unexpected)} tensors do not belong to the model of config.json: "
            f"{first_names(unexpected)}; expected a plain Qwen3 checkpoint (merge adapters first)"
        )
    entries = shards.entries
    for name, (dtypes, shape) in expected.items():
        _check_entry(f"{shards.path_of(stored[name])} ({name})", entries[stored[name]], dtypes, shape)


def _remote_code_notice(folder: Path, raw_config: Mapping[str, Any]) -> tuple[Notice, ...]:
    """A notice where the folder brings Python code: it is never imported."""
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if not scripts and not raw_config.get("auto_map"):
        return ()
    found = ", ".join(scripts) or "auto_map in config.json"
    return (Notice("remote-code-ignored", max(len(scripts), 1), f"code of the checkpoint was not run: {found}"),)


def _check_entry(where: str, entry: TensorEntry, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise InputError(f"{where}: shape {list(entry.shape)}, config.json asks for {list(shape)}")
    if entry.dtype not in dtypes:
        raise InputError(f"{where}: dtype {entry.dtype}, expected {' or '.join(dtypes)}; convert the checkpoint")


def _refuse_quantized_config(folder: Path, raw: Mapping[str, Any]) -> None:
    settings = raw.get("quantization_config") or raw.get("compression_config")
    if settings:
        method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
        raise InputError(
            f"{folder / CONFIG_FILE}: quantization_config ({method}): the checkpoint is quantized already; "
            "expected float weights, start from the original model"
        )


def _canonical_names(shards: Shards) -> tuple[dict[str, str], list[Notice]]:
    """Transformers' name -> stored name. Files of the bare Qwen3Model lack the prefix `model.`."""
    stored: dict[str, str] = {}
    for name in shards.entries:
        if name.endswith(_QUANTIZED_SUFFIXES):
            raise InputError(
                f"{shards.path_of(name)} ({name}): the checkpoint is quantized already; "
                "expected float weights, start from the original model"
            )
        canonical = name if name.startswith(("model.", "lm_head.")) else "model." + name
        if canonical in stored:
            raise InputError(f"{shards.path_of(name)} ({name}): also there as {stored[canonical]}; expected it once")
        stored[canonical] = name
    added = sum(canonical != name for canonical, name in stored.items())
    notice = Notice("prefix-added", added, f"{added} tensors without the prefix 'model.' were read as if they had it")
    return stored, [notice] if added else []


def _drop_redundant(stored: dict[str, str], shards: Shards, config: Qwen3Config) -> list[Notice]:
    """Remove from `stored` what the model does not need though transformers writes it, or once did."""
    notices = []
    if buffers := [name for name in stored if name.endswith(_ROTARY_BUFFER)]:
        detail = "stored rotary frequencies were ignored; config.json gives them"
        notices.append(Notice("rotary-buffers-ignored", len(buffers), detail))
    for name in buffers:
        del stored[name]
    if config.tie_word_embeddings and LM_HEAD in stored:
        _check_equal(shards, stored)
        del stored[LM_HEAD]
        detail = f"{LM_HEAD} equals the embedding and was ignored: config.json ties them"
        notices.append(Notice("tied-lm-head-ignored", 1, detail))
    return notices


def _check_equal(shards: Shards, stored: Mapping[str, str]) -> None:
    """A tied model may store the head too, but only as a copy: transformers would not tie weights that differ."""
    head, table = stored[LM_HEAD], stored.get(EMBEDDING)
    if table is None:
        return  # reported with the other missing tensors
    entries = shards.entries
    same = (entries[head].dtype, entries[head].shape) == (entries[table].dtype, entries[table].shape)
    if same:
        rows = entries[head].shape[0]
        blocks = (slice(start, start + _ROWS_COMPARED) for start in range(0, rows, _ROWS_COMPARED))
        same = all(np.array_equal(shards.read(head, block), shards.read(table, block)) for block in blocks)
    if not same:
        raise InputError(
            f"{shards.path_of(head)} ({LM_HEAD}): differs from {EMBEDDING} although config.json ties them; "
            "expected a copy, set tie_word_embeddings to false if the head is its own"
        )
