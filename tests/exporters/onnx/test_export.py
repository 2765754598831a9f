"""The files on disk: reproducible, nothing stored twice, relative, page aligned, beyond 2 GiB, in little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.exporters.onnx.builder import GraphBuilder
from q3edge.exporters.onnx.decoder import build_decoder
from q3edge.exporters.onnx.dry_run import Unread
from q3edge.exporters.onnx.export import export_decoder, serialized
from q3edge.exporters.onnx.external_data import PAGE, DataLayout, ExternalData
from q3edge.exporters.onnx.graph import DecoderGraph
from q3edge.exporters.onnx.linear import Matrices
from q3edge.exporters.onnx.stored import TensorSpec, group_bytes
from q3edge.progress import Advance, Silent, report_to
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.onnx_models import ExportedDecoder, quantized_model, relative_error, session

# Official dense sizes: hidden, intermediate, layers, heads, KV heads, tied.
OFFICIAL = {
    "0.6B": (1024, 3072, 28, 16, 8, True),
    "1.7B": (2048, 6144, 28, 16, 8, True),
    "4B": (2560, 9728, 36, 32, 8, True),
    "8B": (4096, 12288, 36, 32, 8, False),
    "14B": (5120, 17408, 40, 40, 8, False),
    "32B": (5120, 25600, 64, 64, 8, False),
}


class Zeros(Unread):
    """Weights of any size that are all zero and take no memory."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        return np.zeros(self._shape(name, rows), np.float32)

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        scheme = self.scheme(name)
        assert scheme is not None
        height, width = self._shape(name, rows)
        per_group = (height, scheme.groups(width))
        zero_points = None if scheme.symmetric else np.zeros(per_group, np.uint8)
        codes = np.zeros((height, width), np.uint8)
        return QuantizedTensor(codes, np.zeros(per_group, np.float16), zero_points, scheme)

    def _shape(self, name: str, rows: slice | None) -> tuple[int, ...]:
        shape = self.shapes[name]
        return shape if rows is None else (rows.stop - rows.start, *shape[1:])


def official(size: str) -> Qwen3Config:
    hidden, intermediate, layers, heads, kv_heads, tied = OFFICIAL[size]
    overrides = {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied,
        "vocab_size": 151936, "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1e6,
    }  # fmt: skip
    return Qwen3Config.from_dict(tiny_config(**overrides))


@pytest.mark.parametrize("size", OFFICIAL)
@pytest.mark.parametrize("format_name", ["int4", "int8-dynamic", "float"])
def test_every_official_size_has_a_graph(size: str, format_name: str) -> None:
    """Tensors lie one behind the other, hold all weights once, and large ones start on a page."""
    config = official(size)
    recipe = Recipe(()) if format_name == "float" else Recipe.for_format(format_name)
    schemes, shapes = recipe.resolve(config), tensor_shapes(config)
    layout = DataLayout("weights")
    graph = onnx.load_model_from_string(serialized(Unread(config, schemes), layout))
    extents = sorted({extent(tensor) for tensor in graph.graph.initializer if tensor.external_data})
    ends = [offset + length for offset, length in extents]
    assert all(end <= start < end + PAGE for end, (start, _) in zip([0, *ends], extents))
    assert all(offset % PAGE == 0 for offset, length in extents if length >= 1 << 20)
    assert sum(length for _, length in extents) == sum(
        group_bytes(shapes, (name,), schemes[name]) for name, shape in shapes.items() if len(shape) == 2
    )
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names) > 12 * config.num_hidden_layers
    assert graph.ByteSize() < 10 << 20


def extent(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Offset and length of a tensor's external data."""
    where = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
    return where["offset"], where["length"]


def test_nothing_of_the_graph_is_left_to_functions_or_value_info(tmp_path: Path) -> None:
    """OpenVINO refuses functions of a model, and value_info would repeat what initializers say."""
    export_decoder(quantized_model(lambda _: Scheme(4, 32)), tmp_path)
    model = onnx.load(tmp_path / MODEL_FILE, load_external_data=False)
    assert not model.functions
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}
    assert not model.graph.value_info


def external(graph: ir.Graph) -> list[ir.ExternalTensor]:
    tensors = (value.const_value for value in graph.initializers.values())
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]


@pytest.mark.parametrize(
    "scheme", [Scheme(4, 32, symmetric=False), Scheme(8, None, activations="int8_per_token"), None]
)
def test_two_exports_have_the_same_bytes(tmp_path: Path, scheme: Scheme | None) -> None:
    source = quantized_model(lambda name: Scheme(8, 32) if scheme and "layers" not in name else scheme)
    digests = []
    for run in "ab":
        export_decoder(source, tmp_path / run)
        digests.append([sha256((tmp_path / run / name).read_bytes()).hexdigest() for name in (MODEL_FILE, DATA_FILE)])
    assert digests[0] == digests[1]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"model.onnx", "model.onnx_data"}


def test_a_second_export_into_one_folder_is_refused(tmp_path: Path) -> None:
    """Appending to or mixing with an older data file cannot happen."""
    export_decoder(InMemoryWeights.random(), tmp_path)
    before = (tmp_path / DATA_FILE).read_bytes()
    with pytest.raises(FileExistsError):
        export_decoder(InMemoryWeights.random(1), tmp_path)
    assert (tmp_path / DATA_FILE).read_bytes() == before


@pytest.mark.parametrize("scheme", [None, Scheme(4, 16, symmetric=False), Scheme(8, 32)], ids=str)
def test_a_tied_table_is_stored_once(tmp_path: Path, scheme: Scheme | None) -> None:
    """Untying the same model adds one table to the file, no less."""
    sizes = {}
    for tied in (True, False):
        source = quantized_model(lambda _name: scheme, tie_word_embeddings=tied)
        export_decoder(source, tmp_path / str(tied))
        sizes[tied] = (tmp_path / str(tied) / DATA_FILE).stat().st_size
    table = 320 * 64 * 4 if scheme is None else scheme.stored_bytes(320, 64)
    assert table <= sizes[False] - sizes[True] < table + 3 * 64


def test_locations_are_relative(tmp_path: Path) -> None:
    export_decoder(InMemoryWeights.random(), tmp_path)
    model = onnx.load(tmp_path / MODEL_FILE, load_external_data=False)
    locations = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert locations == {"model.onnx_data"}
    assert (model.producer_name, list(model.metadata_props)) == ("q3edge", [])


def test_offsets_beyond_4_gib_load(tmp_path: Path) -> None:
    """The data file has a hole of 4 GiB at its start, which takes no disk."""

    class Far(ExternalData):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.end = 1 << 32

    source = InMemoryWeights.random()
    builder = GraphBuilder()
    with Far(tmp_path / "weights") as data:
        model = build_decoder(DecoderGraph(source.config, builder, Matrices(builder, source, data, 4, lambda _n: None)))
    assert min(tensor.offset or 0 for tensor in external(model.graph)) == 1 << 32
    ir.save(model, tmp_path / "model.onnx")
    near = ExportedDecoder(source, tmp_path / "near")
    ids = np.arange(5)[None]
    expected, _ = near.step(ids)
    near.session = session(tmp_path / "model.onnx")
    found, _ = near.step(ids)
    assert relative_error(found, expected) == 0


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["int4", "int8-dynamic"])
def test_memory_does_not_grow_with_the_vocabulary(tmp_path: Path, format_name: str) -> None:
    """An 8-bit vocabulary table of 320 MB passes through; the peak stays below 100 MB."""
    overrides = {"vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 1, "max_position_embeddings": 512}
    config = Qwen3Config.from_dict(tiny_config(**overrides))
    source = Zeros(config, Recipe.for_format(format_name).resolve(config))
    tracemalloc.start()
    export_decoder(source, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / DATA_FILE).stat().st_size > 320e6
    assert peak < 100e6


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    seen: list[int] = []
    totals: list[int] = []

    class Record(Silent):
        @contextmanager
        def task(self, label: str, total: int) -> Iterator[Advance]:
            totals.append(total)
            yield seen.append

    source = InMemoryWeights.random()
    with report_to(Record()):
        export_decoder(source, tmp_path)
    assert [sum(seen)] == totals == [sum(source.read(name).size for name in source.tensors)]


def test_blocks_of_the_wrong_size_or_type_are_a_bug(tmp_path: Path) -> None:
    spec = TensorSpec("w", "values", ("w",), np.dtype(np.float32), (2, 3))
    with ExternalData(tmp_path / "data") as data:
        with pytest.raises(ValueError, match="w: the blocks do not add up to its 24 bytes"):
            data.store([spec], [(np.zeros((1, 3), np.float32),)])
        with pytest.raises(TypeError, match="w: block of float64"):
            data.store([spec], [(np.zeros((2, 3)),)])
