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
        ({"rope_type": "llama3", "factor": 2.0}, "rope_type = 'llama3': expected default, linear or yarn"),
        ({"rope_type": "linear"}, "factor = None: expected a positive number"),
        ({"rope_type": "yarn", "factor": -1.0}, r"factor = -1\.0: expected a positive number"),
        ({"rope_type": "yarn", "factor": 2.0, "long_factor": []}, r"unknown fields \['long_factor'\]"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5"),
        (["yarn"], "expected an object or null"),
    ],
)
def test_refused(scaling: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Qwen3Config.from_dict(tiny_config(rope_scaling=scaling))
