"""The text part of Qwen3-VL: the same logits as transformers' own class, vision left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from q3edge.checkpoint import open_float_model
from q3edge.errors import InputError
from q3edge.reference.model import LogitsHead, hidden_states
from tests.helpers.models import MOE, edit_config, tiny_config, write_checkpoint

VISION = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "in_channels": 3,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
EXPERTS = {**{key: MOE[key] for key in ("num_experts", "num_experts_per_tok")}, "moe_intermediate_size": 24}


def write_vision_language(folder: Path, experts: dict[str, Any], *, tied: bool) -> Any:
    """Save a tiny random Qwen3-VL as transformers does; returns the model."""
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    text = {
        key: value
        for key, value in tiny_config().items()
        if key not in ("architectures", "model_type", "rope_theta", "rope_scaling", "tie_word_embeddings")
    }
    text |= {**experts, "rope_parameters": dict(ROPE), "eos_token_id": 1}
    torch.manual_seed(0)
    config = (Qwen3VLMoeConfig if experts else Qwen3VLConfig)(
        text_config=text, vision_config=dict(VISION), tie_word_embeddings=tied,
        image_token_id=300, video_token_id=301, vision_start_token_id=302, vision_end_token_id=303,
    )  # fmt: skip
    kind = Qwen3VLMoeForConditionalGeneration if experts else Qwen3VLForConditionalGeneration
    model = kind(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.ndim == 1))
    model.save_pretrained(folder)
    return model


def turn_experts(folder: Path) -> dict[str, torch.Tensor]:
    """Store the experts as they were released, columns first: [E, H, 2 I] and [E, I, H]; returns all tensors."""
    tensors = load_file(folder / "model.safetensors")
    turned = {name: t.transpose(1, 2).contiguous() if ".experts." in name else t for name, t in tensors.items()}
    save_file(turned, folder / "model.safetensors")
    return turned


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("experts", "turned"), [({}, False), (EXPERTS, False), (EXPERTS, True)])
def test_logits_equal_transformers(tmp_path: Path, experts: dict[str, Any], turned: bool, tied: bool) -> None:
    model = write_vision_language(tmp_path, experts, tied=tied)
    if turned:
        turn_experts(tmp_path)
    ids = np.random.default_rng(0).integers(2, 300, (2, 40))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    vision = [name for name in load_file(tmp_path / "model.safetensors") if "visual" in name]
    with open_float_model(tmp_path) as checkpoint:
        hidden = hidden_states(checkpoint, ids)
        found = LogitsHead(checkpoint).logits(hidden.flatten(0, 1)).reshape(expected.shape).numpy()
        assert {notice.code: notice.count for notice in checkpoint.notices}["vision-left-out"] == len(vision) > 10
        assert checkpoint.raw_config["model_type"] == ("qwen3_moe" if experts else "qwen3")
        assert checkpoint.config.rope.theta == 5e6
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5


def test_experts_are_read_in_rows(tmp_path: Path) -> None:
    write_vision_language(tmp_path, EXPERTS, tied=True)
    stored = turn_experts(tmp_path)
    prefix = "model.language_model.layers.1.mlp.experts."
    with open_float_model(tmp_path) as checkpoint:
        for matrix, part in (("gate", slice(0, 24)), ("up", slice(24, 48))):
            expected = stored[prefix + "gate_up_proj"][3].T[part]
            name = f"model.layers.1.mlp.experts.3.{matrix}_proj.weight"
            np.testing.assert_array_equal(checkpoint.read(name), expected)
            np.testing.assert_array_equal(checkpoint.read(name, slice(2, 5)), expected[2:5])
    square = {name: torch.zeros(8, 64, 64) if name.endswith("gate_up_proj") else t for name, t in stored.items()}
    save_file(square, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    edit_config(tmp_path, text_config={**config["text_config"], "moe_intermediate_size": 32})
    with pytest.raises(InputError, match=r"gate_up_proj\): shape \[8, 64, 64\]: which side is the input"):
        open_float_model(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen3_vl", "text_config": 3}, "text_config = 3: expected an object, the text part"),
        ({"model_type": "qwen3_vl"}, "text_config = None: expected an object"),
        ({"model_type": ["qwen3_vl"]}, "model_type"),
        ({"model_type": "qwen3_next"}, "Qwen3-Next has layers of linear attention"),
        ({"model_type": "qwen3_5_moe"}, "Qwen3.5 has layers of linear attention"),
    ],
)
def test_other_models_are_refused_as_what_they_are(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    edit_config(folder, **fields)
    with pytest.raises(InputError) as caught:
        open_float_model(folder)
    assert message in str(caught.value)
