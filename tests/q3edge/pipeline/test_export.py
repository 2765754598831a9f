"""An export's folder: what its configuration says, and which notices of the checkpoint its manifest carries on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from q3edge.artifact import Manifest
from q3edge.errors import UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.runtime.session.decoder import Decoder
from q3edge.storage.json_files import read_json_object
from tests.helpers.models import edit_config, write_checkpoint
from tests.helpers.onnx_models import relative_error

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def forward(decoder: Decoder, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = decoder.forward(ids[None], decoder.new_cache(len(ids)), keep=0)[0]
    return logits


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": YARN, "max_position_embeddings": 80},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
        {"rope_scaling": None, "rope_parameters": {**YARN, "rope_theta": 1e4}, "max_position_embeddings": 80},
    ],
)
def test_l3_a_model_with_yarn_answers_up_to_its_stretched_length(tmp_path: Path, fields: dict[str, Any]) -> None:
    model, output = write_checkpoint(tmp_path / "model", **fields), tmp_path / "out"
    export_artifact(str(model), output, as_float=True)
    assert read_json_object(output / "genai_config.json")["model"]["context_length"] == 256
    ids = np.random.default_rng(0).integers(0, 320, 256)
    found = forward(Decoder(output), ids)
    for folder in (model, output):  # config.json as it was, and as it lies beside the graph
        (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
        theirs = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            assert relative_error(found, theirs(torch.tensor(ids)[None]).logits[0].numpy()) < 1e-4


def test_l3_a_folder_of_an_older_version_keeps_the_context_of_its_graph(tmp_path: Path) -> None:
    model, output = write_checkpoint(tmp_path / "model", max_position_embeddings=80), tmp_path / "out"
    manifest = export_artifact(str(model), output, as_float=True)
    edit_config(output, rope_scaling=YARN)  # an older version copied config.json and made tables of 80 positions
    manifest.save(output)
    decoder = Decoder(output)
    assert np.isfinite(forward(decoder, np.arange(80))).all()
    with pytest.raises(UsageError, match="80"):
        decoder.new_cache(81)


def test_notices_of_a_float_checkpoint_are_in_the_manifest(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    save_file({f"module.{name}": values for name, values in tensors.items()}, model / "model.safetensors")
    edit_config(
        model,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        rope_scaling={"rope_type": "dynamic", "factor": 2.0},
        auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"},
    )
    manifest = export_artifact(str(model), tmp_path / "out", as_float=True)
    codes = ["remote-code-ignored", "rope-parameters-replaced", "dynamic-rope-not-extended", "prefix-replaced"]
    assert [notice.code for notice in manifest.notices] == [*codes, "tokenizer-missing"]
    assert Manifest.load(tmp_path / "out").notices == manifest.notices
    assert "auto_map" not in json.loads((tmp_path / "out/config.json").read_text())
