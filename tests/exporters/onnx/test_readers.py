"""The graph is one that every reader takes: ONNX's checker passes it in full, and its default needs no odd input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import NUM_LOGITS_TO_KEEP, KVCacheSpec, KVScales
from q3edge.artifact import MODEL_FILE, Manifest
from q3edge.evaluation.validation.dead_matrices import weights_alike
from q3edge.exporters.onnx.export import export_decoder
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.logits_to_keep import with_logits_to_keep
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.onnx_models import ExportedDecoder, quantized_model, session
from tests.helpers.runtime import write_tokenizer

TABLE = Scheme(8, 32)
FORMATS: dict[str, tuple[Scheme | None, Scheme | None]] = {  # layers, table
    "float": (None, None),
    "int8": (Scheme(8, 16), TABLE),
    "int8-dynamic": (Scheme(8, None, activations="int8_per_token"), TABLE),
    "int4": (Scheme(4, 32, symmetric=False), TABLE),
    "int4-fast": (Scheme(4, 64, symmetric=False), Scheme(4, 64, symmetric=False)),
    "int4 float16 scales": (Scheme(4, 32, scales="float16"), Scheme(4, 32, scales="float16")),
    "int2": (Scheme(2, 32, symmetric=False), Scheme(2, 16, symmetric=False)),
}


def random_model(name: str, *, tied: bool = True) -> InMemoryWeights:
    layers, table = FORMATS[name]
    return quantized_model(lambda tensor: layers if "layers" in tensor else table, tie_word_embeddings=tied)


@pytest.mark.parametrize("cache", ["float32", "int8"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_checker_passes_every_format_in_full(name: str, tied: bool, cache: str, tmp_path: Path) -> None:
    source = random_model(name, tied=tied)
    spec = KVCacheSpec.of(source.config)
    scales = np.full((len(spec.layers), spec.kv_heads, spec.head_dim), 0.5, np.float32)
    for last_logits in (False, True):
        folder = tmp_path / str(last_logits)
        kv_scales = KVScales(scales, scales) if cache == "int8" else None
        export_decoder(source, folder, kv_scales=kv_scales, last_logits=last_logits)
        onnx.checker.check_model(folder / MODEL_FILE, full_check=True)


def test_the_only_operators_of_onnxruntime_are_those_without_a_registered_one(tmp_path: Path) -> None:
    found = set()
    for name in FORMATS:
        export_decoder(random_model(name), tmp_path / name)
        graph = onnx.load(tmp_path / name / MODEL_FILE, load_external_data=False).graph
        found |= {node.op_type for node in graph.node if node.domain}
    assert found == {"FusedMatMul", "GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("width", [64, 192], ids=str)
def test_rows_that_are_looked_up_equal_the_definition_bit_for_bit(name: str, width: int, tmp_path: Path) -> None:
    """Of every width of codes, with an odd number of groups too: zero points that do not fill their last byte."""
    layers, table = FORMATS[name]
    source = quantized_model(lambda tensor: layers if "layers" in tensor else table, hidden_size=width)
    export_decoder(source, tmp_path)
    model = onnx.load(tmp_path / MODEL_FILE)
    first = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    model.graph.output.append(onnx.helper.make_tensor_value_info(first.input[0], onnx.TensorProto.FLOAT, None))
    feed: dict[str, NDArray[Any]] = {**ExportedDecoder(source, tmp_path / "again").empty_past(1)}
    ids = np.array([[0, 319, 7, 7]])
    feed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (rows,) = session(model.SerializeToString()).run([first.input[0]], feed)
    assert rows.tobytes() == source.read("model.embed_tokens.weight")[ids].tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_no_norm_reads_a_lookup_itself(name: str, tmp_path: Path) -> None:
    """OpenVINO's execution provider 1.24.1 refuses such a graph as "not acyclic"."""
    export_decoder(random_model(name), tmp_path)
    graph = onnx.load(tmp_path / MODEL_FILE, load_external_data=False).graph
    lookups = {node.output[0] for node in graph.node if node.op_type == "Gather"}
    norms = {node.input[0] for node in graph.node if node.op_type == "RMSNormalization"}
    assert not lookups & norms


def test_last_logits_are_those_of_the_last_position_and_can_be_overridden(tmp_path: Path) -> None:
    source = random_model("int4")
    ids = np.arange(2, 9)[None]
    every, _ = ExportedDecoder(source, tmp_path / "every").step(ids)
    export_decoder(source, tmp_path / "last", last_logits=True)
    path = tmp_path / "last" / MODEL_FILE
    feed: dict[str, NDArray[Any]] = {**ExportedDecoder(source, tmp_path / "again").empty_past(1)}
    feed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    file = session(path)
    assert file.get_outputs()[0].shape == ["batch_size", 1, 320]
    assert file.run(["logits"], feed)[0].tobytes() == every[:, -1:].tobytes()
    asked = session(with_logits_to_keep(path.read_bytes()), path.parent)
    for keep in (0, 3):
        logits = asked.run(["logits"], {**feed, NUM_LOGITS_TO_KEEP: np.array([keep])})[0]
        assert logits.tobytes() == every[:, -keep:].tobytes()


def test_a_graph_that_has_the_input_already_is_left_as_it_is(tmp_path: Path) -> None:
    """As exports up to 2026-11-28 have it."""
    export_decoder(random_model("int8"), tmp_path)
    once = with_logits_to_keep((tmp_path / MODEL_FILE).read_bytes())
    graph = onnx.load_model_from_string(once).graph
    assert [value.name for value in graph.input].count(NUM_LOGITS_TO_KEEP) == 1
    assert with_logits_to_keep(once) == once


@pytest.mark.parametrize("kernels", ["onnxruntime", "auto"])
def test_a_graph_of_an_earlier_version_still_runs_and_gives_the_same_logits(kernels: str, tmp_path: Path) -> None:
    """The file is the graph that the exporter of 2026-11-28 wrote of this model; weights lie as they did then.

    Our kernels fuse less of it than of today's, and so add up in another order.
    """
    source = random_model("int4")
    for name, tensor in source.tensors.items():
        if isinstance(tensor, np.ndarray):  # norms, which lie inside the graph
            source.tensors[name] = np.ones_like(tensor)
    ids = np.arange(2, 42)[None]
    logits = []
    for version in ("now", "then"):
        folder = tmp_path / version
        write_tokenizer(folder)
        (folder / "config.json").write_text(json.dumps(tiny_config()))
        export_decoder(source, folder)
        if version == "then":
            shutil.copyfile(Path(__file__).parent / "data" / "graph_2026-11-28.onnx", folder / MODEL_FILE)
        Manifest("onnx", "parent", Recipe.for_format("int4").to_json()).save(folder)
        decoder = Decoder(folder, threads=1, kernels=kernels)
        cache = decoder.new_cache(64)
        logits.append([decoder.forward(ids, cache, keep=0), decoder.forward(ids[:, :1], cache)])
        assert weights_alike(folder, source.config) == {}
    for now, then in zip(*logits):
        if kernels == "onnxruntime":
            assert now.tobytes() == then.tobytes()
        else:
            np.testing.assert_allclose(now, then, atol=0.01 * np.abs(then).max())
