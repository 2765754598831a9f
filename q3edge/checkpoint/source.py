"""`WeightSource`: what every source of weights offers. The reference and the exporters read any of them alike."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


class WeightSource(Protocol):
    """Weights of one model, read on demand; nothing is kept in memory after a read."""

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""

    def scheme(self, name: str) -> Scheme | None:
        """How tensor `name` is quantized; None: it is float."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """float32 values of tensor `name`, or of a range of its rows; dequantized if it is quantized."""

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Codes and scales of tensor `name`; only where `scheme(name)` is not None."""
