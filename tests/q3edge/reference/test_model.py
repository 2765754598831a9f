"""The float reference against transformers' Qwen3ForCausalLM, and that streaming does not change it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q3edge.architecture.layer import Layer
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, LM_HEAD, tensor_shapes
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.blocks.experts import Routing, mixture
from q3edge.reference.model import LogitsHead, embed, hidden_states
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights
from tests.helpers.models import MOE, InMemoryWeights, fused_experts, tiny_config

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
    "experts": MOE,
    "experts, untied": {**MOE, "tie_word_embeddings": False},
    "experts, shares as they are": {**MOE, "norm_topk_prob": False},
    "experts, every second layer": {**MOE, "num_hidden_layers": 4, "decoder_sparse_step": 2},
    "experts, but for one layer": {**MOE, "mlp_only_layers": [1], "num_experts_per_tok": 5},
    "experts, all of them": {**MOE, "num_experts_per_tok": 8},
    "large eps, untied": {"rms_norm_eps": 1e-2, "tie_word_embeddings": False},
}
LENGTH = 40


def transformers_logits(
    source: InMemoryWeights, ids: NDArray[np.int64], mask: NDArray[np.bool_] | None = None, **overrides: Any
) -> NDArray[np.float32]:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    raw = deepcopy(tiny_config(**overrides))  # transformers writes into the dicts it is given
    experts = source.config.moe is not None
    config = (Qwen3MoeConfig if experts else Qwen3Config)(**raw, attn_implementation="eager")
    config.dtype = torch.float32
    model = (Qwen3MoeForCausalLM if experts else Qwen3ForCausalLM)(config).eval()
    state = fused_experts({name: torch.from_numpy(source.read(name)) for name in tensor_shapes(source.config)})
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


def test_experts_are_read_once_for_all_sequences_and_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q3edge.reference.model._TOKENS_AT_ONCE", 2 * LENGTH)

    class Counting(InMemoryWeights):
        reads: list[str]

        def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
            self.reads.append(name)
            return super().read(name, rows)

    source = InMemoryWeights.random(5, **MOE)
    counting = Counting(source.config, source.tensors)
    counting.reads = []
    ids = random_ids(7)
    together = hidden_states(counting, ids).numpy()
    alone = np.concatenate([hidden_states(source, ids[i : i + 1]).numpy() for i in range(len(ids))])
    assert relative_error(together, alone) < 1e-6
    experts = [name for name in counting.reads if ".experts." in name]
    assert len(experts) == len(set(experts)) == 2 * 8 * 3
    assert experts == [name for name in tensor_shapes(source.config) if ".experts." in name]  # one after another


def test_an_expert_without_tokens_is_not_read() -> None:
    source = InMemoryWeights.random(6, **MOE)
    router = source.tensors["model.layers.0.mlp.gate.weight"]
    assert isinstance(router, np.ndarray)
    weights = LayerWeights.read(source, 0)
    (block,) = (block for block in weights.layer.blocks if block.router)
    normed = torch.from_numpy(np.abs(np.random.default_rng(0).standard_normal((9, 64))).astype(np.float32))
    router[:] = -1.0  # of positive states the last two, with zeros, are the largest
    router[6:] = 0.0
    seen: list[str] = []
    mixture(normed, block, LayerWeights.read(source, 0), source.config, lambda name, _: seen.append(name))
    assert seen == ["experts.6.gate_up", "experts.6.down", "experts.7.gate_up", "experts.7.down"]


@pytest.mark.parametrize("normalize", [True, False])
def test_a_mixture_equals_every_expert_computed_for_every_token(normalize: bool) -> None:
    source = InMemoryWeights.random(7, **{**MOE, "norm_topk_prob": normalize, "num_experts_per_tok": 3})
    config, weights = source.config, LayerWeights.read(source, 1)
    assert config.moe is not None
    (block,) = (block for block in weights.layer.blocks if block.router)
    x = np.random.default_rng(0).standard_normal((11, 64))
    scores = np.exp(x @ source.read("model.layers.1.mlp.gate.weight").T.astype(np.float64))
    scores /= scores.sum(-1, keepdims=True)
    dense = []
    for number in range(8):
        gate, up, down = (
            source.read(f"model.layers.1.mlp.experts.{number}.{m}_proj.weight") for m in ("gate", "up", "down")
        )
        inner = x @ gate.T
        dense.append((inner / (1 + np.exp(-inner)) * (x @ up.T)) @ down.T)
    expected = np.zeros_like(x)
    for token in range(len(x)):
        chosen = np.argsort(-scores[token])[:3]
        shares = scores[token, chosen] / (scores[token, chosen].sum() if normalize else 1)
        expected[token] = sum(share * dense[number][token] for share, number in zip(shares, chosen))
    found = mixture(torch.from_numpy(x.astype(np.float32)), block, weights, config)
    assert relative_error(found.numpy(), expected.astype(np.float32)) < 1e-5


def test_routing_is_float32_under_autocast() -> None:
    source = InMemoryWeights.random(8, **MOE)
    assert source.config.moe is not None
    router = torch.from_numpy(source.read("model.layers.0.mlp.gate.weight"))
    normed = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = Routing.of(normed, router, source.config.moe)
    expected = Routing.of(normed, router, source.config.moe)
    assert torch.equal(found.experts, expected.experts)
    assert torch.equal(found.shares, expected.shares)
    assert found.counts(8).sum() == 2 * 50
    counts = [len(found.tokens_of(expert)[0]) for expert in range(8)]
    assert counts == found.counts(8).tolist()
