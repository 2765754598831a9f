"""The embedding and the head as they will be stored: rounded to nearest, for a float model in all else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.rtn import round_to_nearest
from q3edge.config import Qwen3Config
from q3edge.reference.model import embed
from q3edge.scheme import Scheme
from q3edge.tensor import QuantizedTensor
from q3edge.weights import EMBEDDING, LM_HEAD, WeightSource


def embed_rounded(source: WeightSource, token_ids: NDArray[np.int64], scheme: Scheme | None) -> torch.Tensor:
    """Rows of the embedding rounded to `scheme` (None: as they are), float32 [B, S, H]; rows that occur are rounded."""
    rows = embed(source, token_ids)
    if scheme is None:
        return rows
    return torch.from_numpy(round_to_nearest(rows.flatten(0, 1).numpy(), scheme).dequantize()).view_as(rows)


class RoundedTables:
    """`source` with the embedding and the head in `schemes` rounded when they are read; all else is float."""

    def __init__(self, source: WeightSource, schemes: Mapping[str, Scheme | None]) -> None:
        self._source = source
        self._schemes = {name: schemes.get(name) for name in (EMBEDDING, LM_HEAD)}

    @property
    def config(self) -> Qwen3Config:
        """See WeightSource."""
        return self._source.config

    def scheme(self, name: str) -> Scheme | None:
        """See WeightSource."""
        return self._schemes.get(name)

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """See WeightSource."""
        if self.scheme(name) is None:
            return self._source.read(name, rows)
        return self.read_quantized(name, rows).dequantize()

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """See WeightSource."""
        scheme = self._schemes[name]
        if scheme is None:
            raise TypeError(f"{name} is a float tensor")
        return round_to_nearest(self._source.read(name, rows), scheme)
