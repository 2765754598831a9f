"""`Checkpoint`: the weights of a Qwen3 model folder, checked when opened and read on demand as floats.

Defines a complete model: its tensors and dtypes, and which superfluous tensors are ignored with a notice. Readers of
other tools' quantized layouts derive from it: they say which tensors hold a matrix (`q3edge.checkpoint.matrix`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.artifact import Notice
from q3edge.checkpoint.adapter import Adapter, MergedTensor, other_base, other_text_files
from q3edge.checkpoint.fused_experts import divide_fused_experts
from q3edge.checkpoint.matrix import StoredMatrix, check_parts
from q3edge.checkpoint.model_format import QUANTIZATION_FIELDS, ModelFormat, quantized_already
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES, row_range
from q3edge.checkpoint.tensor_files import TensorFiles
from q3edge.checkpoint.tensor_folder import TensorFolder, check_tensors
from q3edge.checkpoint.tensor_names import canonical_names
from q3edge.checkpoint.text_part import leave_out_vision, transposed_experts
from q3edge.errors import InputError
from q3edge.storage.digests import json_digest

_QUANTIZED_SUFFIXES = (".weight_packed", ".qweight", ".weight_scale", ".weight_scale_inv", ".qzeros", ".absmax")
_ROTARY_BUFFER = "rotary_emb.inv_freq"
_ROWS_COMPARED = 1024


class Checkpoint(TensorFolder):
    """Checkpoint that is read as floats: tensors in BF16, F16 or F32, and matrices that another tool quantized."""

    _adapter: Adapter | None = None

    def _check(self, raw_config: Mapping[str, Any]) -> None:
        self._stored, notices = canonical_names(self._files)
        self._notices += notices
        if self._has_vision:
            self._notices += leave_out_vision(self._stored)
        self._matrices = self._take_matrices(raw_config, self._stored)
        if self._has_vision:
            self._matrices |= transposed_experts(self._files, self._stored, self.config)
        self._notices += _drop_redundant(self._stored, self._files, self.config)
        self._notices += divide_fused_experts(self._stored, self._files, self.config)
        self._tie_equal_head()
        for matrix in self._matrices.values():
            check_parts(matrix, self._asking)
        self._raw_config = {key: value for key, value in self._raw_config.items() if key not in QUANTIZATION_FIELDS}
        shapes = {name: shape for name, shape in tensor_shapes(self.config).items() if name not in self._matrices}
        expected = {name: (FLOAT_DTYPES, shape) for name, shape in shapes.items()}
        check_tensors(self._files, self._stored, expected, self._asking)

    def _take_matrices(self, raw_config: Mapping[str, Any], stored: dict[str, str]) -> dict[str, StoredMatrix]:
        """Take the matrices of another layout out of `stored` (canonical -> stored name); name of the weight -> matrix.

        InputError: what the layout does not allow; here, where there is none, any tensor of one.
        """
        for name in stored.values():
            if name.endswith(_QUANTIZED_SUFFIXES):
                raise quantized_already(f"{self._files.path_of(name)} ({name})")
        return {}

    def _tie_equal_head(self) -> None:
        """Tie a head that equals the embedding, so that one table is stored for both."""
        if self.config.tie_word_embeddings or not _head_equals_embedding(self._files, self._stored):
            return
        del self._stored[LM_HEAD]
        self._config = replace(self._config, tie_word_embeddings=True)
        self._raw_config = {**self._raw_config, "tie_word_embeddings": True}
        detail = f"{LM_HEAD} equals the embedding: both are stored as one table, and config.json ties them"
        self._notices.append(Notice("equal-lm-head-tied", 1, detail))

    def merge(self, adapter: Adapter) -> None:
        """Merge a LoRA adapter into what is read from now on; it is closed with the checkpoint.

        A tied head that it changes becomes a tensor of its own. Codes of matrices that it changes are not kept.
        """
        self._adapter = adapter
        if LM_HEAD in adapter.names and self.config.tie_word_embeddings:
            self._stored[LM_HEAD] = self._stored[EMBEDDING]
            self._config = replace(self._config, tie_word_embeddings=False)
            self._raw_config = {**self._raw_config, "tie_word_embeddings": False}
        for name in adapter.names:
            base = self._matrices.get(name) or partial(self._files.read_float, self._stored[name])
            self._matrices[name] = MergedTensor(adapter, name, base)
        detail = f"tensors were changed by the adapter (LoRA) in {adapter.folder}"
        self._notices = [notice for notice in self._notices if notice.code != "adapter-not-merged"]
        self._notices.append(Notice("adapter-merged", len(adapter.names), detail))
        self._notices += (*other_base(adapter.folder, self.folder), *other_text_files(adapter.folder, self.folder))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of all files that the model is read from."""
        return super().folders if self._adapter is None else (*super().folders, self._adapter.folder)

    def digest(self) -> str:
        """Digest of the model, hex sha256; reads all of it, and of an adapter that is merged into it."""
        own = super().digest()
        return own if self._adapter is None else json_digest({"model": own, "adapter": self._adapter.digest()})

    @classmethod
    def open_again(cls, folder: Path, *others: Path) -> Self:
        """Open a model by its `folders`: the second is that of an adapter."""
        found = cls.open(folder)
        for adapter in others:
            found.merge(Adapter(adapter, found.config))
        return found

    def close(self) -> None:
        """Close the files; later reads fail."""
        super().close()
        if self._adapter is not None:
            self._adapter.close()

    def dtype(self, name: str) -> str:
        """Stored dtype of a tensor: BF16, F16 or F32; F32 where values are computed, as they are for other layouts."""
        return "F32" if name in self._matrices else self._files.entries[self._stored[name]].dtype

    def dtype_counts(self) -> dict[str, int]:
        """Number of tensors of each stored dtype, or layout."""
        labels = {name: matrix.label for name, matrix in self._matrices.items()}
        return dict(sorted(Counter(labels.get(name) or self.dtype(name) for name in self.names()).items()))

    @property
    def matrices(self) -> Mapping[str, StoredMatrix]:
        """Matrices in the layout of another tool, by the name of their weight: their codes, too."""
        return self._matrices

    def scheme(self, name: str) -> None:
        """Scheme of a tensor: always None, as it is read as floats; `matrices` has the codes that there are."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values of a tensor or a range of its rows; InputError if any is NaN or infinite."""
        matrix = self._matrices.get(name)
        if matrix is None:
            return self._files.read_float(self._stored[name], rows)
        values = matrix.values(row_range(rows, matrix.shape[0]))
        if not np.isfinite(values).all():
            raise InputError(f"{self.folder} ({name}): values are NaN or infinite; the checkpoint is damaged")
        return values

    def read_quantized(self, name: str, rows: slice | None = None) -> NoReturn:
        """Raise TypeError: a checkpoint that is read as floats gives no codes."""
        raise TypeError(f"{name} is read as floats")


FLOAT: Final = ModelFormat("float weights", Path.is_dir, Checkpoint.open)


def _drop_redundant(stored: dict[str, str], files: TensorFiles, config: Qwen3Config) -> list[Notice]:
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
        _check_equal(files, stored)
        del stored[LM_HEAD]
        detail = f"{LM_HEAD} equals the embedding and was ignored: config.json ties them"
        notices.append(Notice("tied-lm-head-ignored", 1, detail))
    return notices


def _check_equal(files: TensorFiles, stored: Mapping[str, str]) -> None:
    """Check that a tied model's stored head equals the embedding: transformers would not tie weights that differ."""
    if EMBEDDING in stored and not _head_equals_embedding(files, stored):  # without it: a missing tensor
        raise InputError(
            f"{files.path_of(stored[LM_HEAD])} ({LM_HEAD}): differs from {EMBEDDING} although config.json ties them; "
            "expected a copy, set tie_word_embeddings to false if the head is its own"
        )


def _head_equals_embedding(files: TensorFiles, stored: Mapping[str, str]) -> bool:
    """Tell whether there are both, alike in every bit; stops reading at the first block of rows that differs."""
    head, table = stored.get(LM_HEAD), stored.get(EMBEDDING)
    if head is None or table is None:
        return False
    entries = files.entries
    shape = entries[head].shape
    if (entries[head].dtype, shape) != (entries[table].dtype, entries[table].shape) or len(shape) != 2:
        return False
    blocks = (slice(start, start + _ROWS_COMPARED) for start in range(0, shape[0], _ROWS_COMPARED))
    return all(files.read(head, block).tobytes() == files.read(table, block).tobytes() for block in blocks)
