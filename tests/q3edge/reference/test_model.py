"""The float reference against transformers' Qwen3ForCausalLM, and that streaming does not change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import MoeConfig
from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, LM_HEAD, tensor_shapes
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.model import LogitsHead, embed, hidden_states
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights
from tests.helpers.models import InMemoryWeights, tiny_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}  # as Qwen's model cards give it
CONFIGS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "odd head_dim": {"head_dim": 24},
    "one kv head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 4},
    "linear rope": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "yarn rope": {"rope_scaling": YARN, "max_position_embeddings": 40960},
    "short yarn rope": {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}},
    "large eps, untied": {"rms_norm_eps": 1e-2, "tie_word_embeddings": False},
}
LENGTH = 40


def transformers_logits(
    source: InMemoryWeights, ids: NDArray[np.int64], mask: NDArray[np.bool_] | None = None, **overrides: Any
) -> NDArray[np.float32]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    raw = deepcopy(tiny_config(**overrides))  # transformers writes into the dicts it is given
    config = Qwen3Config(**raw, attn_implementation="eager")
    config.dtype = torch.float32
    model = Qwen3ForCausalLM(config).eval()
    state = {name: torch.from_numpy(source.read(name)) for name in tensor_shapes(source.config)}
    if source.config.tie_word_embeddings:
        state[LM_HEAD] = state[EMBEDDING]
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        attention = None if mask is None else torch.from_numpy(mask.astype(np.int64))
        logits: NDArray[np.float32] = model(torch.from_numpy(ids), attention_mask=attention).logits.numpy()
    return logits


def our_logits(
    source: InMemoryWeights, ids: NDArray[np.int64], lengths: Sequence[int] | None = None, **head: int
) -> NDArray[np.float32]:
    hidden = hidden_states(source, ids, lengths)
    return LogitsHead(source, **head).logits(hidden.flatten(0, 1)).reshape(*ids.shape, -1).numpy()


def random_ids(batch: int, seed: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 320, (batch, LENGTH))


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_equal_transformers(name: str, seed: int) -> None:
    source = InMemoryWeights.random(seed, **CONFIGS[name])
    ids = random_ids(3)
    expected = transformers_logits(source, ids, **CONFIGS[name])
    assert relative_error(our_logits(source, ids), expected) < 1e-5


@pytest.mark.parametrize("name", ["tied", "odd head_dim", "yarn rope"])
def test_padded_batch_equals_transformers_on_every_real_token(name: str) -> None:
    source = InMemoryWeights.random(2, **CONFIGS[name])
    lengths = [LENGTH, LENGTH - 1, LENGTH - 17, 1]
    ids, mask = random_ids(4), np.arange(LENGTH) < np.array(lengths)[:, None]
    found, expected = our_logits(source, ids, lengths), transformers_logits(source, ids, mask, **CONFIGS[name])
    assert np.isfinite(found).all()
    assert relative_error(found[mask], expected[mask]) < 1e-5


def test_padding_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q3edge.reference.model._TOKENS_AT_ONCE", 2 * LENGTH)
    seen: list[tuple[int, ...]] = []

    def watch(weights: LayerWeights, group: str, values: torch.Tensor, _rotary: RotaryTables) -> None:
        if (weights.layer.number, group) == (0, "qkv"):
            seen.append(values.shape[:2])

    hidden_states(InMemoryWeights.random(3), random_ids(6), [LENGTH, LENGTH - 1, 30, 20, 20, 3], watch=watch)
    assert seen == [(2, LENGTH), (2, 30), (2, 20)]


def test_what_padding_holds_changes_nothing() -> None:
    source = InMemoryWeights.random(4)
    ids = random_ids(1)
    changed = ids.copy()
    changed[0, 25:] = 7
    assert np.array_equal(our_logits(source, ids)[:, :25], our_logits(source, changed)[:, :25])


def test_many_sequences_equal_one_at_a_time_and_read_each_weight_once() -> None:
    class Counting(InMemoryWeights):
        reads: list[str]

        def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
            self.reads.append(name)
            return super().read(name, rows)

    source = InMemoryWeights.random(5)
    counting = Counting(source.config, source.tensors)
    counting.reads = []
    ids = random_ids(60)  # several passes of _TOKENS_AT_ONCE
    together = hidden_states(counting, ids).numpy()
    alone = np.concatenate([hidden_states(source, ids[i : i + 1]).numpy() for i in range(len(ids))])
    assert relative_error(together, alone) < 1e-6
    layers = [name for name in counting.reads if name != EMBEDDING]
    assert len(layers) == len(set(layers)) == 2 * 11 + 1
    assert FINAL_NORM in layers


def test_head_in_row_blocks_equals_head_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    source = InMemoryWeights.random(6, tie_word_embeddings=False)
    ids = random_ids(1)
    monkeypatch.setattr("q3edge.reference.model._BLOCK_BYTES", 64 * 4 * 37)
    in_blocks = our_logits(source, ids, max_table_bytes=64 * 320 * 4 - 1)
    assert relative_error(in_blocks, our_logits(source, ids)) < 1e-6


def test_large_head_is_never_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = InMemoryWeights.random(7)
    largest = 0

    def read(name: str, rows: slice | None = None) -> NDArray[np.float32]:
        nonlocal largest
        values = InMemoryWeights.read(source, name, rows)
        largest = max(largest, values.nbytes)
        return values

    monkeypatch.setattr("q3edge.reference.model._BLOCK_BYTES", 4096)
    monkeypatch.setattr(source, "read", read)
    head = LogitsHead(source, max_table_bytes=0)
    head.logits(torch.zeros(2, 64))
    assert largest == 4096


def test_embedding_rows_of_the_ids() -> None:
    source = InMemoryWeights.random(8)
    ids = np.array([[0, 319, 255, 256], [257, 255, 1, 319]])
    assert np.array_equal(embed(source, ids).numpy(), source.read(EMBEDDING)[ids])


def test_quantized_source_is_the_model_with_dequantized_weights() -> None:
    source = InMemoryWeights.random(9)
    generator, scheme = np.random.default_rng(0), Scheme(4, 32)
    name = "model.layers.1.mlp.up_proj.weight"
    codes = generator.integers(0, 16, (128, 64)).astype(np.uint8)
    quantized = QuantizedTensor(codes, np.full((128, 2), 0.02, np.float16), None, scheme)
    as_codes = InMemoryWeights(source.config, {**source.tensors, name: quantized})
    as_float = InMemoryWeights(source.config, {**source.tensors, name: quantized.dequantize()})
    ids = random_ids(1)
    assert np.array_equal(our_logits(as_codes, ids), our_logits(as_float, ids))
    assert relative_error(our_logits(as_codes, ids), our_logits(source, ids)) > 1e-3


def test_names_of_layer_weights_are_those_of_the_checkpoint() -> None:
    config = InMemoryWeights.random().config
    layer = Layer.of(config, 1)
    names = {layer.name(field) for field in layer.tensors}
    expected = tensor_shapes(config)
    assert names == {name for name in expected if name.startswith("model.layers.1.")}


@pytest.mark.parametrize("ids", [[[0, 320]], [[-1, 5]]])
def test_token_outside_the_vocabulary(ids: list[list[int]]) -> None:
    with pytest.raises(InputError, match=r"expected 0\.\.319; the tokenizer does not belong"):
        hidden_states(InMemoryWeights.random(), np.array(ids))


def test_experts_are_refused() -> None:
    dense = InMemoryWeights.random()
    moe = dataclasses.replace(dense.config, model_type="qwen3_moe", moe=MoeConfig(4, 2, 32, True, 1, ()))
    with pytest.raises(InputError, match=r"'qwen3_moe': layer 0 has experts; .* not available yet"):
        hidden_states(InMemoryWeights(moe, dense.tensors), random_ids(1))
