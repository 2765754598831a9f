"""GGUF of a checkpoint: read by the gguf package as q3edge dequantizes it, and by q3edge with the same codes."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.architecture.tensors import EMBEDDING
from q3edge.artifact import Manifest
from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.errors import InputError, UsageError
from q3edge.library.making import export
from q3edge.pipeline.export_other import export_other
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from tests.helpers.gguf_models import own_name, read_gguf_model
from tests.helpers.models import MOE, write_checkpoint

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
EVERYWHERE = ("model.embed_tokens", "model.layers.*_proj")


def exported(folder: Path, scheme: Scheme, **overrides: Any) -> Manifest:
    """Quantize a small model by one scheme, rounded to nearest, into q, and export it into g."""
    write_checkpoint(folder / "m", **{"vocab_size": 1280, **overrides})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder / "m" / name)
    recipe = Recipe(tuple(Rule(match, scheme) for match in EVERYWHERE), method="rtn")
    quantize_checkpoint(str(folder / "m"), folder / "q", recipe)
    return export_other(str(folder / "q"), folder / "g", "gguf")


@pytest.mark.parametrize(
    ("scheme", "kind", "step"),
    [
        (Scheme(4, 32), "Q4_0", 0),
        (Scheme(4, 64), "Q4_0", 0),
        (Scheme(4, 32, scales="float16"), "Q4_0", 0),
        (Scheme(8, 32), "Q8_0", 0),
        (Scheme(8, 64), "Q8_0", 0),
        (Scheme(4, 32, symmetric=False), "Q4_1", 15 * 2**-11),
        (Scheme(4, 64, symmetric=False, scales="float16"), "Q4_1", 15 * 2**-11),
    ],
)
def test_values_are_those_of_the_checkpoint(tmp_path: Path, scheme: Scheme, kind: str, step: float) -> None:
    """step: of the scale, by which float16 may move a value of Q4_1: half a unit in the last place of 15 scales."""
    manifest = exported(tmp_path, scheme)
    assert manifest.kind == "other"
    values, metadata, types = read_gguf_model(tmp_path / "g/model.gguf")
    assert types["token_embd.weight"] == types["blk.1.ffn_down.weight"] == kind
    assert metadata["general.architecture"] == "qwen3"
    rounded = {notice.code: notice.count for notice in manifest.notices}
    with open_quantized_model(tmp_path / "q") as source:
        assert len(values) == len(source.names())
        for name in source.names():
            if source.scheme(name) is None:
                np.testing.assert_array_equal(values[own_name(name)], source.read(name))
                continue
            scales = np.abs(source.read_quantized(name).scales.astype(np.float32))
            allowed = scales.repeat(source.read(name).shape[1] // scales.shape[1], axis=1) * step
            assert (np.abs(values[own_name(name)] - source.read(name)) <= allowed).all(), name
    assert ("minimum-rounded" in rounded) == (kind == "Q4_1")


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(8, 32), Scheme(4, 32, symmetric=False)])
def test_codes_come_back_as_they_were(tmp_path: Path, scheme: Scheme) -> None:
    exported(tmp_path, scheme)
    with open_quantized_model(tmp_path / "q") as source, open_float_model(tmp_path / "g") as back:
        assert source.config == back.config
        for name in source.names():
            if source.scheme(name) is None:
                np.testing.assert_array_equal(back.read(name), source.read(name))
                continue
            matrix, own = back.matrices[name], source.read_quantized(name)
            assert matrix.scheme == Scheme(scheme.bits, 32, scheme.symmetric, scales="float16")
            found = matrix.codes(slice(0, matrix.shape[0]))
            np.testing.assert_array_equal(found.codes, own.codes)
            np.testing.assert_array_equal(found.dequantize(), own.dequantize())


def test_experts_are_one_tensor_of_a_layer(tmp_path: Path) -> None:
    exported(tmp_path, Scheme(4, 32), **MOE)
    values, metadata, _ = read_gguf_model(tmp_path / "g/model.gguf")
    assert metadata["qwen3moe.expert_count"] == 8
    assert values["blk.1.ffn_gate_exps.weight"].shape == (8, 32, 64)
    with open_quantized_model(tmp_path / "q") as source, open_float_model(tmp_path / "g") as back:
        assert source.config == back.config
        for expert in range(8):
            name = f"model.layers.1.mlp.experts.{expert}.down_proj.weight"
            np.testing.assert_array_equal(values["blk.1.ffn_down_exps.weight"][expert], source.read(name))
            np.testing.assert_array_equal(back.read(name), source.read(name))


def test_floats_keep_their_type(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", tie_word_embeddings=False)
    manifest = export(tmp_path / "m", tmp_path / "g", as_float=True, to="gguf")
    assert [notice.code for notice in manifest.notices] == ["tokenizer-missing"]
    values, metadata, types = read_gguf_model(tmp_path / "g/model.gguf")
    assert types["output.weight"] == "BF16"
    assert types["output_norm.weight"] == "F32"
    assert metadata["general.file_type"] == 32
    with open_float_model(tmp_path / "m") as source:
        for name in source.names():
            np.testing.assert_array_equal(values[own_name(name)], source.read(name))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (Scheme(4, 16), "has groups of 16; choose --format int4-mixed, int4 .--group-size 32"),
        (Scheme(2, 32), "has 2 bits; choose"),
        (Scheme(8, 32, symmetric=False), "has 8 bits with zero points"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_with_what_to_choose(tmp_path: Path, scheme: Scheme, message: str) -> None:
    with pytest.raises(InputError, match=f"GGUF cannot hold 15 tensors: {EMBEDDING} {message}"):
        exported(tmp_path, scheme)
    assert not (tmp_path / "g").exists()


def test_options_of_onnx_models_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m")
    with pytest.raises(UsageError, match="--to gguf: leave out --last-logits"):
        export(tmp_path / "m", tmp_path / "g", as_float=True, to="gguf", last_logits=True)


def test_the_folder_is_told_from_an_onnx_model(tmp_path: Path) -> None:
    from q3edge.runtime.model import Model

    exported(tmp_path, Scheme(4, 32))
    with pytest.raises(InputError, match="a model for other programs; make an ONNX model of the QDIR"):
        Model.open(tmp_path / "g")
