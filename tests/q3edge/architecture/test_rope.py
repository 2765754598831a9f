"""Inverse frequencies and attention factor against transformers' own, and the refusals."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import InputError
from q3edge.reference.rotary import RotaryTables
from tests.helpers.models import tiny_config

QWEN_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SCALINGS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 2.5},
    "old field name": {"type": "linear", "factor": 2.0},
    "Qwen's yarn": QWEN_YARN,
    "yarn without original length": {"rope_type": "yarn", "factor": 2.0},
    "yarn betas": {**QWEN_YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn equal betas": {**QWEN_YARN, "beta_fast": 4.0, "beta_slow": 4.0},
    "yarn not truncated": {**QWEN_YARN, "truncate": False},
    "yarn attention factor": {**QWEN_YARN, "attention_factor": 1.3},
    "yarn mscale": {**QWEN_YARN, "mscale": 0.7, "mscale_all_dim": 1.1},
    "yarn mscale alone": {**QWEN_YARN, "mscale": 0.7},
    "yarn factor below one": {**QWEN_YARN, "factor": 0.5},
    "yarn short": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16},
    "dynamic": {"rope_type": "dynamic", "factor": 2.3},
}
SHAPES = [(24, 10000.0, 40960), (64, 1000000.0, 40960), (128, 1000000.0, 131072)]


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize(("head_dim", "theta", "positions"), SHAPES)
def test_equals_transformers(name: str, head_dim: int, theta: float, positions: int) -> None:
    import torch
    from transformers import Qwen3Config as TransformersConfig
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    fields = {"head_dim": head_dim, "rope_theta": theta, "max_position_embeddings": positions}
    raw = tiny_config(**fields, rope_scaling=SCALINGS[name])
    ours = Qwen3Config.from_dict(raw)
    theirs = Qwen3RotaryEmbedding(TransformersConfig(**deepcopy(raw)))  # it writes into the dicts it is given
    np.testing.assert_allclose(ours.rope.inverse_frequencies(head_dim), theirs.inv_freq.numpy(), rtol=3e-7)
    assert ours.rope.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)
    cos, sin = theirs(torch.zeros(1), torch.arange(100)[None])
    tables = RotaryTables.of(ours, 100)
    np.testing.assert_allclose(tables.cos, cos[0], atol=2e-5)
    np.testing.assert_allclose(tables.sin[:, head_dim // 2 :], sin[0, :, head_dim // 2 :], atol=2e-5)


DEFAULT = {"rope_type": "default"}


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_parameters": {**DEFAULT, "rope_theta": 10000.0}, "rope_scaling": QWEN_YARN},
        {"rope_parameters": {**DEFAULT, "rope_theta": 5e5}, "rope_scaling": {**QWEN_YARN, "rope_theta": 5e5}},
        {"rope_parameters": DEFAULT, "rope_scaling": QWEN_YARN, "rope_theta": 5e5},
        {"rope_parameters": {**QWEN_YARN, "factor": 2.0}, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
        {"rope_parameters": QWEN_YARN, "rope_scaling": {}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 64},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 64},
        {"rope_scaling": QWEN_YARN, "original_max_position_embeddings": 32768},
        {"rope_scaling": {**QWEN_YARN, "original_max_position_embeddings": 32768.0}},
        {"rope_scaling": DEFAULT, "original_max_position_embeddings": 64},
    ],
)
def test_l2_two_places_for_the_settings_mean_what_transformers_makes_of_them(fields: dict[str, Any]) -> None:
    from transformers import Qwen3Config as TransformersConfig
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    raw = tiny_config(max_position_embeddings=40960, **fields)
    if "rope_theta" not in fields:
        del raw["rope_theta"]
    theirs = Qwen3RotaryEmbedding(TransformersConfig(**deepcopy(raw)))
    ours = Qwen3Config.from_dict(raw).rope
    np.testing.assert_allclose(ours.inverse_frequencies(32), theirs.inv_freq.numpy(), rtol=3e-7)
    assert ours.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_parameters": {**DEFAULT, "rope_theta": 1e6}, "rope_scaling": QWEN_YARN},
            "rope_theta: rope_scaling takes the place of rope_parameters and makes it 10000.0 instead of 1000000.0",
        ),
        (
            {"rope_scaling": QWEN_YARN, "original_max_position_embeddings": 64},
            "original_max_position_embeddings = 64: the rotary settings say 32768",
        ),
        ({"rope_parameters": {"full_attention": QWEN_YARN}}, "rope_parameters has unknown fields ['full_attention']"),
        ({"rope_parameters": "yarn", "rope_scaling": QWEN_YARN}, "rope_parameters = 'yarn': expected an object"),
        ({"partial_rotary_factor": 0.5, "rope_scaling": QWEN_YARN}, "partial_rotary_factor = 0.5: expected 1.0"),
    ],
)
def test_l2_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    raw = tiny_config(max_position_embeddings=40960, **fields)
    del raw["rope_theta"]
    with pytest.raises(InputError) as caught:
        Qwen3Config.from_dict(raw, "config.json")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"max_position_embeddings": 40960, "rope_scaling": QWEN_YARN}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": QWEN_YARN}, 131072),
        ({"max_position_embeddings": 262144, "rope_scaling": QWEN_YARN}, 262144),
        ({"max_position_embeddings": 80, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 320),
        ({"max_position_embeddings": 80, "rope_scaling": {**QWEN_YARN, "original_max_position_embeddings": 64}}, 256),
        ({"max_position_embeddings": 80, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 80),
        ({"max_position_embeddings": 80, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 80),
        ({"max_position_embeddings": 80}, 80),
    ],
)
def test_l3_the_context_is_what_yarn_stretches_the_original_length_to(fields: dict[str, Any], context: int) -> None:
    raw = tiny_config(**fields)
    config = Qwen3Config.from_dict(raw)
    assert config.context_length == context
    stated = {**raw, **config.rope.fields_of_context(raw, config.max_position_embeddings)}
    again = Qwen3Config.from_dict(stated)
    assert (again.max_position_embeddings, again.context_length) == (context, context)
    assert again.rope == config.rope


def test_both_spellings_of_the_settings_are_one() -> None:
    new = tiny_config(rope_parameters={**QWEN_YARN, "rope_theta": 5e5})
    old = tiny_config(rope_scaling=QWEN_YARN, rope_theta=5e5)
    assert Qwen3Config.from_dict(new).rope == Qwen3Config.from_dict(old).rope


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    plain = Qwen3Config.from_dict(tiny_config(head_dim=128)).rope.inverse_frequencies(128)
    yarn = Qwen3Config.from_dict(tiny_config(head_dim=128, rope_scaling=QWEN_YARN)).rope.inverse_frequencies(128)
    assert yarn[0] == plain[0]
    np.testing.assert_allclose(yarn[-1], plain[-1] / 4, rtol=1e-6)
    assert ((yarn <= plain) & (yarn >= plain / 4 * (1 - 1e-6))).all()


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "llama3", "factor": 2.0}, "rope_type = 'llama3': expected default, linear, dynamic or yarn"),
        ({"rope_type": "linear"}, "factor = None: expected a positive number"),
        ({"rope_type": "yarn", "factor": -1.0}, r"factor = -1\.0: expected a positive number"),
        ({"rope_type": "yarn", "factor": 2.0, "long_factor": []}, r"unknown fields \['long_factor'\]"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5"),
        (["yarn"], "expected an object or null"),
        ({**QWEN_YARN, "original_max_position_embeddings": 0.5}, r"original_max_position_embeddings = 0\.5: expected"),
        ({**QWEN_YARN, "original_max_position_embeddings": 2**25}, "of at most 16777216"),
        ({**QWEN_YARN, "factor": 1e17}, r"factor = 1e\+17: makes the context longer than 16777216 tokens"),
        ({**QWEN_YARN, "truncate": "no"}, "truncate = 'no': expected true or false"),
    ],
)
def test_refused(scaling: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Qwen3Config.from_dict(tiny_config(rope_scaling=scaling))
