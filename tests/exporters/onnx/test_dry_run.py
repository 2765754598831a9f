"""A dry run says to the byte what an export writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from q3edge.architecture.kv_cache import KVCacheSpec, KVScales
from q3edge.architecture.tensors import components, tensor_shapes
from q3edge.artifact import DATA_FILE, MODEL_FILE
from q3edge.errors import InputError
from q3edge.exporters.onnx.dry_run import dry_run
from q3edge.exporters.onnx.export import export_decoder
from q3edge.exporters.onnx.stored import group_bytes, weight_bytes
from q3edge.formats import CacheType
from q3edge.quantization.scheme import Scheme
from tests.helpers.onnx_models import quantized_model

MIXED = {
    "q_proj": Scheme(4, 32, symmetric=False), "k_proj": Scheme(4, 32, symmetric=False), "v_proj": Scheme(8, 16),
    "o_proj": None, "gate_proj": Scheme(2, 32), "up_proj": Scheme(2, 32), "down_proj": Scheme(4, 64, scales="float16"),
    "embed_tokens": Scheme(8, 32), "lm_head": Scheme(4, 32, symmetric=False),
}  # fmt: skip
W8A8 = Scheme(8, None, activations="int8_per_token")


def by_part(schemes: dict[str, Scheme | None], name: str) -> Scheme | None:
    return next((scheme for part, scheme in schemes.items() if part in name), None)


MODELS: dict[str, dict[str, Scheme | None]] = {
    "mixed": MIXED,
    "float": {},
    "w8a8": {"_proj": W8A8, "embed_tokens": Scheme(8, 32), "lm_head": W8A8},
}


@pytest.mark.parametrize("cache", ["float32", "int8"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model", MODELS)
def test_the_plan_is_what_an_export_writes(model: str, tied: bool, cache: CacheType, tmp_path: Path) -> None:
    source = quantized_model(lambda name: by_part(MODELS[model], name), tie_word_embeddings=tied)
    config = source.config
    spec = KVCacheSpec.of(config)
    scales = np.full((len(spec.layers), spec.kv_heads, spec.head_dim), 0.5, np.float32)
    export_decoder(source, tmp_path, kv_scales=KVScales(scales, scales) if cache == "int8" else None)
    plan = dry_run(config, {name: source.scheme(name) for name in source.tensors}, cache)
    assert plan.graph_bytes == (tmp_path / MODEL_FILE).stat().st_size
    assert plan.data_bytes == (tmp_path / DATA_FILE).stat().st_size
    graph = onnx.load(tmp_path / MODEL_FILE, load_external_data=False).graph
    stored = {tensor.name: extent(tensor) for tensor in graph.initializer}
    assert {name: length for name, length in stored.items() if length} == {
        tensor.name: tensor.nbytes for tensor in plan.tensors if len(tensor.shape) > 1 or tensor.part != "values"
    }


def extent(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor in the other file; 0 where it lies in the graph."""
    return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), 0)


def test_every_weight_has_its_share_of_the_bytes() -> None:
    source = quantized_model(lambda name: by_part(MIXED, name), tie_word_embeddings=False)
    schemes = {name: source.scheme(name) for name in source.tensors}
    plan = dry_run(source.config, schemes)
    sizes = weight_bytes(source.config, schemes)
    assert sizes.keys() == tensor_shapes(source.config).keys()
    stored = {tensor.name: tensor for tensor in plan.tensors}
    assert sum(sizes.values()) == sum(tensor.nbytes for tensor in stored.values())
    for tensor in stored.values():
        parts = (other for other in stored.values() if other.weights == tensor.weights)
        assert sum(part.nbytes for part in parts) == sum(sizes[name] for name in tensor.weights)


def test_a_group_of_matrices_takes_what_its_matrices_take() -> None:
    shapes = tensor_shapes(quantized_model(lambda _: None).config)
    names = tuple(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
    scheme = Scheme(4, 32, symmetric=False)
    assert group_bytes(shapes, names, scheme) == sum(group_bytes(shapes, (name,), scheme) for name in names)


def test_components_are_the_blocks_and_what_is_beside_them() -> None:
    config = quantized_model(lambda _: None, tie_word_embeddings=False).config
    found = set(components(config).values())
    assert found == {"embed_tokens", "lm_head", "norms", "attention", "mlp"}


def test_what_cannot_be_exported_has_no_plan() -> None:
    config = quantized_model(lambda _: None, head_dim=24, hidden_size=96).config
    with pytest.raises(InputError, match="head_dim = 24"):
        dry_run(config, dict.fromkeys(tensor_shapes(config)))
