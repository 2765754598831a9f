"""The float graph equals transformers' Qwen3ForCausalLM, alone, in batches and step by step with a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from transformers import Qwen3Config, Qwen3ForCausalLM

from q3edge.artifact import MODEL_FILE
from q3edge.errors import InputError
from q3edge.exporters.onnx.export import export_decoder
from tests.helpers.models import InMemoryWeights, tiny_config
from tests.helpers.onnx_models import ExportedDecoder, relative_error

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "head_dim-48": {"head_dim": 48, "num_key_value_heads": 1},
    "no-grouping": {"num_key_value_heads": 4, "head_dim": 16, "num_hidden_layers": 3},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 80},  # row L3: the context is 4 x 64
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.3}},
    "yarn-theta-1e6": {"rope_scaling": YARN | {"beta_fast": 16.0}, "rope_theta": 1e6, "max_position_embeddings": 256},
}
TOLERANCE = 1e-5  # relative to the largest logit; seen: below 2e-6


class Pair:
    """One random model twice: exported, and in transformers."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        source = InMemoryWeights.random(7, **overrides)
        self.exported = ExportedDecoder(source, folder)
        raw = {**tiny_config(**overrides), "torch_dtype": "float32"}
        # transformers 4 and 5 read the rope settings from different fields.
        raw["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": raw["rope_theta"],
            **(raw["rope_scaling"] or {}),
        }
        self.torch = Qwen3ForCausalLM(Qwen3Config(**raw)).float().eval()
        weights = {name: torch.tensor(source.read(name)) for name in source.tensors}
        missing, unexpected = self.torch.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}

    def reference(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """transformers' logits of one row without padding."""
        with torch.no_grad():
            logits: NDArray[np.float32] = self.torch(torch.tensor(ids)[None]).logits[0].numpy()
        return logits


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("model"), **VARIANTS[request.param])


def random_ids(*shape: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 320, shape)


def test_one_row(pair: Pair) -> None:
    ids = random_ids(1, 150)
    logits, _ = pair.exported.step(ids)
    assert relative_error(logits[0], pair.reference(ids[0])) < TOLERANCE


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 1, 5], [9, 3]], ids=str)
def test_cached_steps(pair: Pair, chunks: list[int]) -> None:
    ids, past, parts, done = random_ids(1, 12), None, [], 0
    for size in chunks:
        logits, past = pair.exported.step(ids[:, done : done + size], past=past)
        parts.append(logits[0])
        done += size
    assert relative_error(np.concatenate(parts), pair.reference(ids[0])) < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_then_decoding(pair: Pair, side: str) -> None:
    """Three rows of 7, 4 and 1 tokens in one call, then two more tokens each, as genai and transformers feed them."""
    lengths, width, extra = [7, 4, 1], 7, 2
    rows = [random_ids(length + extra, seed=length) for length in lengths]
    references = [pair.reference(row) for row in rows]
    ids, mask = random_ids(3, width, seed=99), np.zeros((3, width), np.int64)
    for row, length in enumerate(lengths):
        part = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, part], mask[row, part] = rows[row][:length], 1
    logits, past = pair.exported.step(ids, mask)
    for row, length in enumerate(lengths):
        assert relative_error(logits[row][mask[row] == 1], references[row][:length]) < TOLERANCE
    for step in range(extra):
        mask = grow(mask, side, lengths, step)
        ids = np.array([[row[length + step]] for row, length in zip(rows, lengths)])
        logits, past = pair.exported.step(ids, mask, past)
        for row, length in enumerate(lengths):
            assert relative_error(logits[row, 0], references[row][length + step]) < TOLERANCE


def grow(mask: NDArray[np.int64], side: str, lengths: list[int], step: int) -> NDArray[np.int64]:
    """The mask with one more token per row: at the end (transformers), or behind the row's last one (genai)."""
    mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1 if side == "left" else 0)
    if side == "right":
        mask[np.arange(len(lengths)), np.array(lengths) + step] = 1
    return mask


def test_a_batch_in_chunks_is_refused_by_the_kernel(pair: Pair) -> None:
    """Not supported, and not silently wrong: a batch is prefilled in one call, or row by row."""
    _, past = pair.exported.step(random_ids(2, 5))
    with pytest.raises(InvalidArgument, match="batch_size must be 1 when sequence_length > 1"):
        pair.exported.step(random_ids(2, 4), past=past)


@pytest.mark.parametrize(("keep", "expected"), [(np.array([0]), 6), (np.array([1]), 1), (np.array([4]), 4)], ids=str)
def test_num_logits_to_keep(pair: Pair, keep: NDArray[np.int64], expected: int) -> None:
    ids = random_ids(2, 6)
    every, _ = pair.exported.step(ids)
    some, _ = pair.exported.step(ids, keep=keep)
    assert some.shape[1] == expected
    assert relative_error(some, every[:, -expected:]) < TOLERANCE


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_theta": 1e6}, 40960),
        ({"rope_theta": 1e6, "rope_scaling": YARN | {"original_max_position_embeddings": 32768}}, 131072),
    ],
)
def test_rotary_tables_are_folded_and_equal_transformers(tmp_path: Path, rope: dict[str, Any], length: int) -> None:
    """At Qwen's own lengths nothing is stored on disk, no Cos is left to run, and the last position is still right."""
    pair = Pair(tmp_path, max_position_embeddings=40960, head_dim=128, **rope)
    assert (tmp_path / MODEL_FILE).stat().st_size < 100_000
    options = pair.exported.session.get_session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    type(pair.exported.session)(tmp_path / MODEL_FILE, options)
    graph = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    assert not {"Cos", "Sin", "Range"} & {node.op_type for node in graph.node}
    tables = [onnx.numpy_helper.to_array(t) for t in graph.initializer if tuple(t.dims) == (length, 64)]
    cos, sin = pair.torch.model.rotary_emb(torch.zeros(1), torch.arange(length)[None])
    assert len(tables) == 2
    for table, expected in zip(sorted(tables, key=lambda t: -t[0, 0]), (cos, sin)):
        np.testing.assert_allclose(table, expected[0, :, :64].numpy(), atol=5e-6)


def test_the_interface_is_what_other_runtimes_expect(pair: Pair) -> None:
    graph = pair.exported.session
    inputs = {value.name: (value.type, value.shape) for value in graph.get_inputs()}
    cache, layers = pair.exported.cache, pair.exported.cache.layers
    past = ["batch_size", cache.kv_heads, "past_sequence_length", cache.head_dim]
    assert inputs == {
        "input_ids": ("tensor(int64)", ["batch_size", "sequence_length"]),
        "attention_mask": ("tensor(int64)", ["batch_size", "total_sequence_length"]),
        **{f"past_key_values.{i}.{kind}": ("tensor(float)", past) for i in layers for kind in ("key", "value")},
    }
    assert not graph.get_overridable_initializers()  # OpenVINO's execution provider takes none
    present = [f"present.{i}.{kind}" for i in layers for kind in ("key", "value")]
    assert [value.name for value in graph.get_outputs()] == ["logits", *present]


def test_a_head_dim_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"head_dim = 24: cannot be exported.* multiple of 16"):
        export_decoder(InMemoryWeights.random(head_dim=24), tmp_path)
    assert not list(tmp_path.iterdir())
