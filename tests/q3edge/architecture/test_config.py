"""config.json is read strictly: what transformers means by it, or an InputError naming file, field and value."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from q3edge.architecture.config import MoeConfig, Qwen3Config
from q3edge.architecture.tensors import tensor_shapes
from q3edge.errors import InputError
from tests.helpers.models import tiny_config

MOE = {
    "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "norm_topk_prob": True, "decoder_sparse_step": 2, "mlp_only_layers": [3],
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def read(**overrides: Any) -> Qwen3Config:
    return Qwen3Config.from_dict(tiny_config(**overrides), "folder/config.json")


def test_fields_of_a_dense_model() -> None:
    config = read(eos_token_id=[1, 2], tie_word_embeddings=False)
    assert (config.hidden_size, config.head_dim, config.num_key_value_heads) == (64, 32, 2)
    assert config.eos_token_ids == (1, 2)
    assert config.moe is None
    assert not config.tie_word_embeddings


@pytest.mark.parametrize("also", [{}, {"num_experts": 4}, {"num_experts": None}])
def test_experts_as_transformers_5_counts_them(also: dict[str, Any]) -> None:
    fields = {name: value for name, value in MOE.items() if name != "num_experts"}
    assert read(**fields, **also, num_local_experts=4).moe == read(**MOE).moe


def test_fields_of_a_mixture_of_experts() -> None:
    config = read(**MOE)
    assert config.moe == MoeConfig(4, 2, 32, True, 2, (3,))
    assert [config.is_moe_layer(layer) for layer in range(6)] == [False, True, False, False, False, True]


@pytest.mark.parametrize("dense", [{"mlp_only_layers": [0, 1]}, {"decoder_sparse_step": 3, "mlp_only_layers": []}])
def test_a_mixture_without_a_layer_of_experts_is_a_dense_model(dense: dict[str, Any]) -> None:
    config = read(**MOE | dense, num_hidden_layers=2)
    assert config.moe is None
    assert tensor_shapes(config) == tensor_shapes(read(num_hidden_layers=2))
    assert read(**MOE | {"mlp_only_layers": [0]}, num_hidden_layers=2).moe is not None


def test_both_ways_to_write_rope_mean_the_same() -> None:
    old = read(rope_theta=1e6, rope_scaling=YARN)
    new = tiny_config(rope_parameters={**YARN, "rope_theta": 1e6})
    del new["rope_theta"], new["rope_scaling"]
    assert Qwen3Config.from_dict(new).rope == old.rope
    assert_array_equal(Qwen3Config.from_dict(new).rope.inverse_frequencies(32), old.rope.inverse_frequencies(32))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", "64", "expected a positive integer"),
        ("hidden_size", 64.0, "expected a positive integer"),
        ("hidden_size", True, "expected a positive integer"),
        ("vocab_size", -1, "expected a positive integer"),
        ("num_hidden_layers", 0, "expected a positive integer"),
        ("head_dim", 33, "expected an even number"),
        ("num_key_value_heads", 3, "expected a divisor of num_attention_heads = 4"),
        ("hidden_act", "gelu", "expected 'silu'"),
        ("attention_bias", True, "expected false"),
        ("tie_word_embeddings", "yes", "expected true or false"),
        ("rms_norm_eps", 0, "expected a number between 0 and 1"),
        ("rms_norm_eps", float("nan"), "expected a number between 0 and 1"),
        ("eos_token_id", 320, "expected token ids between 0 and vocab_size - 1 = 319"),
        ("pad_token_id", [1, 2], "expected one token id"),
        ("max_position_embeddings", None, "expected a positive integer"),
        ("model_type", None, "expected a string"),
    ],
)
def test_bad_input_12_field_and_value_are_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        read(**{field: value})
    assert str(caught.value) == f"folder/config.json: {field} = {value!r}: {expected}" or expected in str(caught.value)
    assert str(caught.value).startswith(f"folder/config.json: {field} = {value!r}: ")


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ("yarn", "rope_scaling = 'yarn': expected an object or null"),
        ({"rope_type": "llama3"}, "rope_type = 'llama3': expected default, linear, dynamic or yarn"),
        ({"rope_type": "yarn", "factor": 0}, "factor = 0: expected a positive number"),
        ({"rope_type": "yarn", "factor": "4"}, "factor = '4': expected a positive number"),
        ({"rope_type": "linear"}, "factor = None: expected a positive number"),
        ({"rope_type": "yarn", "factor": 4, "surprise": 1}, "unknown fields ['surprise']"),
    ],
)
def test_bad_input_12_rope(scaling: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(rope_scaling=scaling)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["full_attention", "sliding_attention"], "layer_types: 'sliding_attention' (layer 1): expected 'full_attenti"),
        (["linear_attention", "full_attention"], "layer_types: 'linear_attention' (layer 0): expected 'full_attention"),
        ([None, "full_attention"], "layer_types: None (layer 0): expected 'full_attention'"),
        (["full_attention"], "layer_types = ['full_attention']: expected a list with one entry for each of num_hidden"),
        (["full_attention"] * 3, "expected a list with one entry for each of num_hidden_layers = 2"),
        ("full_attention", "layer_types = 'full_attention': expected a list"),
    ],
)
def test_l4_layers_of_another_kind_are_refused_by_field(types: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(layer_types=types)
    assert message in str(caught.value)
    with pytest.raises(InputError):
        read(layer_types=types, **MOE)


@pytest.mark.parametrize("types", [None, ["full_attention"] * 2, ["attention", "full_attention"]])
def test_l4_layers_of_the_usual_kind(types: object) -> None:
    assert read(layer_types=types) == read()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 2147483648}, "num_hidden_layers = 2147483648: expected a positive integer of at most"),
        ({**MOE, "num_local_experts": 5}, "num_local_experts = 5: expected 4, as num_experts says"),
        ({**MOE, "num_experts": 2147483647}, "num_experts = 2147483647: expected a positive integer of at most 4096"),
        ({**MOE, "num_hidden_layers": 4096, "num_experts": 4096}, "num_experts = 4096: expected a positive integer of"),
        ({**MOE, "mlp_only_layers": [0] * 100_000}, "mlp_only_layers = [0, 0, 0, 0, 0, 0, ...]: expected a list"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings = 2147483648: expected a positive integer of at"),
    ],
)
def test_r3_huge_counts_are_refused_before_anything_is_built(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta", "hidden_size", "vocab_size", "eos_token_id"])
def test_r14_numbers_beyond_all_floats(tmp_path: Path, field: str) -> None:
    text = json.dumps(tiny_config(**{field: "HERE"})).replace('"HERE"', "1e400")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=f"{field} = inf: expected"):
        Qwen3Config.load(tmp_path)


def test_long_and_deep_values_are_shown_in_part() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    for value in ("x" * 100_000, "a\n\x1b[31m", 10**4000, deep, {"a": ["b" * 1000] * 1000}):
        with pytest.raises(InputError) as caught:
            read(hidden_size=value)
        assert len(str(caught.value)) < 600
        assert str(caught.value).isprintable()


def test_a_head_width_that_is_not_there_is_that_of_transformers() -> None:
    dense, experts = tiny_config(), tiny_config(**MOE)
    del dense["head_dim"], experts["head_dim"]
    assert Qwen3Config.from_dict(dense).head_dim == 128
    assert Qwen3Config.from_dict(experts).head_dim == 64 // 4
    with pytest.raises(InputError, match="head_dim = None: expected a positive integer"):
        Qwen3Config.from_dict({**experts, "num_attention_heads": 128, "num_key_value_heads": 2})


def test_l24_biases_in_attention_are_refused_by_field() -> None:
    """docs/decisions/2026-11-29-attention-biases-are-refused.md says why."""
    with pytest.raises(InputError, match="attention_bias = True: expected false"):
        read(attention_bias=True)


def test_bad_input_13_other_model_type_lists_the_supported() -> None:
    with pytest.raises(InputError, match="model_type = 'llama': expected one of qwen3, qwen3_moe"):
        read(model_type="llama")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not valid JSON"), (b"[1]", "expected a JSON object, found list"), (b"\xff{}", "not valid JSON"),
     (b"[" * 100_000, "not valid JSON"), (b"<html>", "not valid JSON")],
)  # fmt: skip
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Qwen3Config.load(tmp_path)


def test_absent_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: not found"):
        Qwen3Config.load(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        Qwen3Config.load(tmp_path)


def test_r14_a_pipe_in_place_of_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: cannot be read \(not a regular file\)"):
        Qwen3Config.load(tmp_path)


numbers = st.integers(-2, 70) | st.integers(-(10**400), 10**400) | st.floats() | st.sampled_from([1e-320, 1e308, -0.0])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from(["silu", "qwen3", "qwen3_moe", "yarn"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ROPE_FIELDS = (
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor",
)  # fmt: skip
rope_values = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["yarn", "linear", "default"]) | json_values},
    optional={field: json_values | numbers for field in ROPE_FIELDS if field != "rope_type"},
)


@settings(deadline=None, max_examples=200)
@given(
    changes=st.dictionaries(
        st.sampled_from(sorted({*tiny_config(), *MOE, "rope_parameters"})), json_values, min_size=1, max_size=3
    ),
    rope=st.none() | rope_values,
    moe=st.booleans(),
)
def test_any_json_gives_a_config_or_an_input_error(changes: dict[str, Any], rope: object, moe: bool) -> None:
    raw = {**tiny_config(), **(MOE if moe else {}), "rope_scaling": rope, **changes}
    try:
        config = Qwen3Config.from_dict(json.loads(json.dumps(raw)))
    except InputError as error:
        assert str(error).startswith("config.json: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        [config.is_moe_layer(layer) for layer in range(3)]
        config.rope.inverse_frequencies(min(config.head_dim, 256))
