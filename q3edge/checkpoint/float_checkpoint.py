"""`Checkpoint`: the float weights of a Qwen3 model folder, checked when opened and read on demand.

Defines a complete float model: its tensors and dtypes, and which superfluous tensors are ignored with a notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.model_format import ModelFormat, quantized_already
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES
from q3edge.checkpoint.safetensors.shards import Shards
from q3edge.checkpoint.safetensors_folder import SafetensorsFolder, check_tensors
from q3edge.checkpoint.tensor_names import canonical_names
from q3edge.errors import InputError

_QUANTIZED_SUFFIXES = (".weight_packed", ".qweight", ".weight_scale", ".weight_scale_inv", ".qzeros", ".absmax")
_ROTARY_BUFFER = "rotary_emb.inv_freq"
_ROWS_COMPARED = 1024


class Checkpoint(SafetensorsFolder):
    """Float checkpoint: config.json and safetensors files in BF16, F16 or F32."""

    def _check(self, raw_config: Mapping[str, Any]) -> None:
        _refuse_quantized(self._shards)
        self._stored, notices = canonical_names(self._shards)
        self._notices += notices + _drop_redundant(self._stored, self._shards, self.config)
        expected = {name: (FLOAT_DTYPES, shape) for name, shape in tensor_shapes(self.config).items()}
        check_tensors(self._shards, self._stored, expected)

    def dtype(self, name: str) -> str:
        """Stored dtype of a tensor: BF16, F16 or F32."""
        return self._shards.entries[self._stored[name]].dtype

    def scheme(self, name: str) -> None:
        """Scheme of a tensor: always None, as every tensor is float."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values of a tensor or a range of its rows; InputError if any is NaN or infinite."""
        return self._shards.read_float(self._stored[name], rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> NoReturn:
        """Raise TypeError: a float checkpoint has no codes."""
        raise TypeError(f"{name} is a float tensor")


FLOAT: Final = ModelFormat("float weights", Path.is_dir, Checkpoint.open)


def _refuse_quantized(shards: Shards) -> None:
    for name in shards.entries:
        if name.endswith(_QUANTIZED_SUFFIXES):
            raise quantized_already(f"{shards.path_of(name)} ({name})")


def _drop_redundant(stored: dict[str, str], shards: Shards, config: Qwen3Config) -> list[Notice]:
    """Remove from `stored` the tensors that transformers writes, or once did, though the model does not need them."""
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
    """Check that a tied model's stored head equals the embedding: transformers would not tie weights that differ."""
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
