"""Writing QDIR as a stream: row blocks of any tensor in any order, never more than one block in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE, Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, tensor_shapes
from q3edge.checkpoint.bit_packing import WORD_BITS
from q3edge.checkpoint.compressed_tensors.layout import (
    PACKED,
    encode,
    format_of,
    stored_name,
    stored_tensors,
)
from q3edge.checkpoint.compressed_tensors.settings import check_supported, quantization_config
from q3edge.checkpoint.safetensors.file import NUMPY_DTYPES
from q3edge.checkpoint.safetensors.writer import SafetensorsWriter, bfloat16_bits
from q3edge.checkpoint.shards import SINGLE_FILE
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


class QuantizedWriter:
    """Writer of model.safetensors and config.json of a quantized model, into an existing folder.

    raw_config: the parsed config.json of the float model, kept as it is and given a `quantization_config`.
    schemes: every tensor of the model -> its scheme, None for float (as `Recipe.resolve` gives it).
    float_dtypes: float tensor -> BF16, F16 or F32, the dtype to store it in.
    UsageError: a scheme that the layout cannot express. OSError passes through.
    """

    def __init__(
        self,
        folder: Path,
        raw_config: Mapping[str, Any],
        schemes: Mapping[str, Scheme | None],
        float_dtypes: Mapping[str, str],
    ) -> None:
        check_supported(schemes)
        config = Qwen3Config.from_dict(raw_config)
        self._folder, self._raw_config, self._schemes = folder, raw_config, schemes
        self._tied = config.tie_word_embeddings
        self._shapes = tensor_shapes(config)
        self._rows = dict.fromkeys(self._shapes, 0)
        self._dtypes = {name: float_dtypes[name] for name in self._shapes if schemes[name] is None}
        entries = {name: (dtype, self._shapes[name]) for name, dtype in self._dtypes.items()}
        quantized = {name: scheme for name, scheme in schemes.items() if scheme is not None}
        for name, scheme in quantized.items():
            entries |= stored_tensors(name, self._shapes[name], scheme, self._tied)
        self._writer = SafetensorsWriter(folder / SINGLE_FILE, entries, {"format": "pt"})
        for name, scheme in quantized.items():
            if format_of(name, scheme) == PACKED:
                self._writer.append(stored_name(name, "weight_shape"), np.array(self._shapes[name], np.int64))

    def add(self, name: str, block: QuantizedTensor) -> None:
        """Append the next rows of a quantized tensor; every block but the last has a multiple of 32 rows.

        ValueError: another scheme or width than announced, or a block of another length in the middle.
        """
        if block.scheme != self._schemes[name] or block.shape[1] != self._shapes[name][1]:
            raise ValueError(f"{name}: block {block.shape} of {block.scheme} does not fit {self._schemes[name]}")
        if self._rows[name] % WORD_BITS:
            raise ValueError(f"{name}: a block in the middle must have a multiple of {WORD_BITS} rows")
        self._rows[name] += block.shape[0]
        for part, values in encode(name, block).items():
            self._writer.append(stored_name(name, part), values)
            if self._tied and name == EMBEDDING and part != "weight":
                self._writer.append(stored_name(LM_HEAD, part), values)

    def add_float(self, name: str, values: NDArray[np.float32]) -> None:
        """Append the next rows of a float tensor, rounded to its stored dtype."""
        dtype = self._dtypes[name]
        self._writer.append(name, bfloat16_bits(values) if dtype == "BF16" else values.astype(NUMPY_DTYPES[dtype]))

    def close(self) -> None:
        """Finish the weights, then write config.json. ValueError: a tensor is incomplete."""
        self._writer.close()
        settings = quantization_config(self._schemes, self._tied)
        config = {**self._raw_config, "quantization_config": settings}
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (self._folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.__exit__(kind, error, _)
