"""Reading QDIR: a WeightSource over the folder that `QuantizedWriter` wrote, checked like a float checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import MANIFEST_FILE
from q3edge.checkpoint.compressed_tensors.layout import decode, stored_name, stored_tensors
from q3edge.checkpoint.compressed_tensors.settings import METHOD, read_schemes, writes_so
from q3edge.checkpoint.model_format import ModelFormat, quantization_method, stated_config
from q3edge.checkpoint.safetensors.file import FLOAT_DTYPES, row_range
from q3edge.checkpoint.tensor_files import Expected
from q3edge.checkpoint.tensor_folder import TensorFolder, check_tensors
from q3edge.errors import InputError, UsageError
from q3edge.quantization.scales import split_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


class QuantizedCheckpoint(TensorFolder):
    """Quantized checkpoint (QDIR): quantized and float weights."""

    def _check(self, raw_config: Mapping[str, Any]) -> None:
        self._shapes = tensor_shapes(self.config)
        source = str(self.folder / CONFIG_FILE)
        self._schemes = read_schemes(raw_config.get("quantization_config"), self._shapes, source)
        check_tensors(self._files, {name: name for name in self._files.entries}, self._expected())

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of a tensor; None: it is float."""
        return self._schemes[name]

    def dtype(self, name: str) -> str:
        """Stored dtype of a float tensor: BF16, F16 or F32."""
        return self._files.entries[name].dtype

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values of a tensor or a range of its rows, dequantized where it is quantized."""
        if self._schemes[name] is not None:
            return self.read_quantized(name, rows).dequantize()
        return self._files.read_float(name, rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Read codes, scales and zero points of a tensor or a range of its rows, exactly as they were written.

        TypeError: the tensor is float. InputError: values that its scheme does not allow.
        """
        scheme = self._schemes[name]
        if scheme is None:
            raise TypeError(f"{name} is a float tensor")
        height, width = self._shapes[name]

        def read(part: str, part_rows: slice) -> NDArray[Any]:
            return self._files.read(stored_name(name, part), part_rows)

        tensor = decode(name, scheme, width, read, row_range(rows, height))
        _check_values(tensor, f"{self.folder} ({name})")
        return tensor

    def _expected(self) -> dict[str, Expected]:
        expected: dict[str, Expected] = {}
        for name, shape in self._shapes.items():
            scheme = self._schemes[name]
            if scheme is None:
                expected[name] = (FLOAT_DTYPES, shape)
                continue
            try:
                stored = stored_tensors(name, shape, scheme, self.config.tie_word_embeddings)
            except UsageError as error:  # a group size that does not fit: config.json was changed
                raise InputError(f"{self.folder / CONFIG_FILE} ({name}): {error}") from None
            expected |= {part: ((dtype,), part_shape) for part, (dtype, part_shape) in stored.items()}
        return expected


def _recognises(path: Path) -> bool:
    """Tell folders of q3edge's own from those of other tools: by the manifest, or by settings that have its fields."""
    if quantization_method(path) != METHOD:
        return False
    return (path / MANIFEST_FILE).is_file() or writes_so(stated_config(path).get("quantization_config"))


COMPRESSED_TENSORS: Final = ModelFormat(METHOD, _recognises, QuantizedCheckpoint.open)


def _check_values(tensor: QuantizedTensor, where: str) -> None:
    largest = tensor.scheme.max_code
    if not np.isfinite(tensor.scales).all():
        raise InputError(f"{where}: scales are NaN or infinite; the file is damaged, quantize again")
    if tensor.scheme.scales == "int8":
        try:
            split_scales(tensor.scales, tensor.scheme)
        except ValueError as error:
            raise InputError(f"{where}: {error}; an older q3edge or another tool wrote it, quantize again") from None
    for values in (tensor.codes, tensor.zero_points):
        if values is not None and values.size and int(values.max()) > largest:
            raise InputError(
                f"{where}: values outside the range of {tensor.scheme.bits} bits; the file is damaged, quantize again"
            )
