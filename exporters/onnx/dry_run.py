"""`dry_run`: exact sizes of an export without weights: the same graph is built, and nothing is stored.

It gives names and sizes of stored tensors, and the size of a model before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec, KVScales
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import DATA_FILE
from q3edge.exporters.onnx.export import check_exportable, serialized
from q3edge.exporters.onnx.external_data import DataLayout
from q3edge.exporters.onnx.stored import TensorSpec, float_specs
from q3edge.formats import CacheType, ExpertOperators
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Files that an export writes. tensors: those in the file of weights, then the vectors inside the graph.

    graph_bytes: of model.onnx; data_bytes: of the file of weights, gaps of alignment included.
    """

    graph_bytes: int
    data_bytes: int
    tensors: tuple[TensorSpec, ...]

    @property
    def model_bytes(self) -> int:
        """Bytes of both files."""
        return self.graph_bytes + self.data_bytes


def dry_run(
    config: Qwen3Config,
    schemes: Mapping[str, Scheme | None],
    cache: CacheType = "float32",
    experts: ExpertOperators = "qmoe",
) -> ExportPlan:
    """Plan the export of a model whose tensors have these schemes; errors are those of `export_decoder`."""
    check_exportable(config)
    layout = DataLayout(DATA_FILE.rpartition("/")[2])
    source = Unread(config, schemes)
    graph = serialized(source, layout, _unit_scales(config) if cache == "int8" else None, experts=experts)
    vectors = [spec for name, shape in source.shapes.items() if len(shape) == 1 for spec in float_specs((name,), shape)]
    return ExportPlan(len(graph), layout.end, (*layout.specs, *vectors))


def _unit_scales(config: Qwen3Config) -> KVScales:
    spec = KVCacheSpec.of(config)
    ones = np.ones((len(spec.layers), spec.kv_heads, spec.head_dim), np.float32)
    return KVScales(ones, ones)


class Unread:
    """Weight source with shapes and schemes only; vectors are zeros, and matrices are never read."""

    def __init__(self, config: Qwen3Config, schemes: Mapping[str, Scheme | None]) -> None:
        self.config, self.shapes = config, tensor_shapes(config)
        self._schemes = schemes

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of a tensor; None: it is float."""
        return self._schemes[name]

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Return zeros in place of a vector."""
        return np.zeros(self.shapes[name], np.float32)

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Refuse: nothing reads matrices in a dry run."""
        raise AssertionError(f"{name}: was read in a dry run")
