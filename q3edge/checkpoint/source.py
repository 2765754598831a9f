"""Interfaces of every reader of a model: `WeightSource`, its weights, and `ModelFolder`, weights and files.

The reference and the exporters read any WeightSource alike, such as one over a dict of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import Notice
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


class WeightSource(Protocol):
    """Weights of one model, read on demand; nothing is kept in memory after a read."""

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of tensor `name`; None if it is float."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values of tensor `name`, or of a range of its rows; dequantized if it is quantized."""

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Read codes and scales of tensor `name`, or of a range of its rows; TypeError if it is float."""


class ModelFolder(WeightSource, Protocol):
    """Weight source over files, which stay open until `close` or the end of a `with` block."""

    @property
    def folder(self) -> Path:
        """Path that the model was opened from: its folder, or its file."""

    @property
    def side_folder(self) -> Path:
        """Folder of the tokenizer and the other files beside the weights; gone when the model is closed."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of all files that the model is read from: that one, and an adapter's."""

    @property
    def raw_config(self) -> Mapping[str, Any]:
        """Fields of config.json, with those replaced that are not what the model is read as."""

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Notices of what was accepted although unusual."""

    def names(self) -> tuple[str, ...]:
        """Names of the model's tensors, in the order of the forward pass."""

    def dtype(self, name: str) -> str:
        """Stored dtype of a float tensor: BF16, F16 or F32."""

    @property
    def stored_bytes(self) -> int:
        """Total size of the weight files."""

    def digest(self) -> str:
        """Digest that identifies configuration and weights, hex sha256; reads all of them."""

    def close(self) -> None:
        """Close the files; later reads fail."""

    def __enter__(self) -> Self:
        """Return the source itself."""

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Close the files."""
