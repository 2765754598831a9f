"""`Checkpoint`: the float weights of a Qwen3 model folder, checked when opened and read on demand.

Defines a complete float model: its tensors and dtypes, and which superfluous tensors are ignored with a notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.fused_experts import divide_fused_experts
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
        self._notices += divide_fused_experts(self._stored, self._shards, self.config)
        self._tie_equal_head()
        expected = {name: (FLOAT_DTYPES, shape) for name, shape in tensor_shapes(self.config).items()}
        check_tensors(self._shards, self._stored, expected)

    def _tie_equal_head(self) -> None:
        """Tie a head that equals the embedding, so that one table is stored for both."""
        if self.config.tie_word_embeddings or not _head_equals_embedding(self._shards, self._stored):
            return
        del self._stored[LM_HEAD]
        self._config = replace(self._config, tie_word_embeddings=True)
        self._raw_config = {**self._raw_config, "tie_word_embeddings": True}
        detail = f"{LM_HEAD} equals the embedding: both are stored as one table, and config.json ties them"
        self._notices.append(Notice("equal-lm-head-tied", 1, detail))

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
    if config.is_embedding and LM_HEAD in stored:
        del stored[LM_HEAD]
        notices.append(Notice("head-ignored", 1, f"{LM_HEAD} was ignored: an embedding model has no use for it"))
    if config.tie_word_embeddings and LM_HEAD in stored:
        _check_equal(shards, stored)
        del stored[LM_HEAD]
        detail = f"{LM_HEAD} equals the embedding and was ignored: config.json ties them"
        notices.append(Notice("tied-lm-head-ignored", 1, detail))
    return notices


def _check_equal(shards: Shards, stored: Mapping[str, str]) -> None:
    """Check that a tied model's stored head equals the embedding: transformers would not tie weights that differ."""
    if EMBEDDING in stored and not _head_equals_embedding(shards, stored):  # without it: a missing tensor
        raise InputError(
            f"{shards.path_of(stored[LM_HEAD])} ({LM_HEAD}): differs from {EMBEDDING} although config.json ties them; "
            "expected a copy, set tie_word_embeddings to false if the head is its own"
        )


def _head_equals_embedding(shards: Shards, stored: Mapping[str, str]) -> bool:
    """Tell whether there are both, alike in every bit; stops reading at the first block of rows that differs."""
    head, table = stored.get(LM_HEAD), stored.get(EMBEDDING)
    if head is None or table is None:
        return False
    entries = shards.entries
    shape = entries[head].shape
    if (entries[head].dtype, shape) != (entries[table].dtype, entries[table].shape) or len(shape) != 2:
        return False
    blocks = (slice(start, start + _ROWS_COMPARED) for start in range(0, shape[0], _ROWS_COMPARED))
    return all(shards.read(head, block).tobytes() == shards.read(table, block).tobytes() for block in blocks)
