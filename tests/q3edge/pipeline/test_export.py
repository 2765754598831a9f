"""An export's folder: what its configuration says, and which notices of the checkpoint its manifest carries on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
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
from q3edge.formats import FORMATS
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.inspect import inspect_model
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.runtime.session.decoder import Decoder
from q3edge.storage.json_files import read_json_object
from tests.helpers.models import edit_config, write_checkpoint
from tests.helpers.onnx_models import relative_error
from tests.helpers.runtime import write_tokenizer

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def forward(decoder: Decoder, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = decoder.forward(ids[None], decoder.new_cache(len(ids)), keep=0)[0]
    return logits


def reference(folder: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """transformers' logits in float32."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor(ids)[None]).logits[0].numpy()
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
        assert relative_error(found, reference(folder, ids)) < 1e-4


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


HOSTILE = ("../../SECRET", "/SECRET", r"\\SECRET\share", "//SECRET/share", r"C:\SECRET", "file:///SECRET", "SECRET.py")
_opened: list[str] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "import"):
        _opened.append(str(arguments[0]))


@cache
def _hook() -> None:
    sys.addaudithook(_record)  # which stays for the life of the process


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that is opened, and every module that is imported."""
    global _opened
    _hook()
    _opened = []
    yield _opened
    _opened = None


def hostile_fields(raw: dict[str, Any], kept: tuple[str, ...], value: str) -> dict[str, Any]:
    """Fields with `value` in place of every string that does not decide the model, and in those that name code."""
    names = ("_name_or_path", "tokenizer_class", "tokenizer_file", "vocab_file", "custom_generate", "extends", "path")
    changed = {name: value for name, old in raw.items() if isinstance(old, str) and name not in kept}
    code = {"auto_map": {"AutoConfig": value, "AutoModelForCausalLM": value, "AutoTokenizer": [value, None]}}
    return {**raw, **changed, **dict.fromkeys(names, value), **code, "transformers.js_config": {"dtype": value}}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_field_of_a_checkpoint_names_code_or_a_path_outside(tmp_path: Path, opened: list[str], value: str) -> None:
    model = write_checkpoint(tmp_path / "model")
    for name, kept in (("config.json", ("model_type", "hidden_act")), ("generation_config.json", ())):
        path = model / name
        raw = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(hostile_fields(raw, kept, value)))
    path = model / "model.safetensors"
    save_file(load_file(path), path, {"format": value, "path": value})
    index = {"metadata": {"total_size": value, "path": value}, "weight_map": {"x": f"{value}.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))  # model.safetensors is there: not needed
    opened.clear()
    export_artifact(str(model), tmp_path / "out", as_float=True)
    forward(Decoder(tmp_path / "out"), np.arange(4))
    assert any("model.safetensors" in name for name in opened)
    assert not [name for name in opened if "SECRET" in name]
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert "auto_map" not in written
    assert written["transformers.js_config"].keys() == {"dtype", "use_external_data_format"}


def with_head(folder: Path, change: float) -> Path:
    """An untied checkpoint whose head is the embedding plus `change` in one place."""
    model = write_checkpoint(folder)
    tensors = load_file(model / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    head[-1, -1] += change
    save_file({**tensors, "lm_head.weight": head}, model / "model.safetensors")
    edit_config(model, tie_word_embeddings=False)
    return model


def test_q15_a_head_that_equals_the_embedding_is_stored_once(tmp_path: Path) -> None:
    model, tied = with_head(tmp_path / "model", 0.0), write_checkpoint(tmp_path / "tied")
    manifest = export_artifact(str(model), tmp_path / "out", as_float=True)
    assert [(notice.code, notice.count) for notice in manifest.notices][:1] == [("equal-lm-head-tied", 1)]
    export_artifact(str(tied), tmp_path / "tied_out", as_float=True)
    for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "tied_out" / name).read_bytes()
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True
    ids = np.arange(2, 40)
    expected = reference(model, ids)
    assert relative_error(forward(Decoder(tmp_path / "out"), ids), expected) < 1e-4
    quantized = quantize_checkpoint(str(model), tmp_path / "quantized", Recipe.for_format("int8"))
    assert "equal-lm-head-tied" in {notice.code for notice in quantized.notices}
    export_artifact(str(tmp_path / "quantized"), tmp_path / "int8")
    assert relative_error(forward(Decoder(tmp_path / "int8"), ids), expected) < 0.1


def test_q15_a_head_that_differs_in_one_number_is_its_own(tmp_path: Path) -> None:
    manifest = export_artifact(str(with_head(tmp_path / "model", 1.0)), tmp_path / "out", as_float=True)
    assert [notice.code for notice in manifest.notices] == ["tokenizer-missing"]
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("fields", "left_float"),
    [({"intermediate_size": 108}, 0), ({"hidden_size": 72}, 1), ({"hidden_size": 72, "intermediate_size": 108}, 1)],
)
def test_l18_widths_that_no_group_size_divides_have_a_format_that_works(
    tmp_path: Path, fields: dict[str, Any], left_float: int, tied: bool
) -> None:
    model = write_checkpoint(tmp_path / "model", tie_word_embeddings=tied, **fields)
    with pytest.raises(UsageError, match="valid sizes: none, but the format int8-dynamic takes any width"):
        quantize_checkpoint(str(model), tmp_path / "quantized", Recipe.for_format("int4"))
    quantize_checkpoint(str(model), tmp_path / "quantized", Recipe.for_format("int8-dynamic"))
    manifest = export_artifact(str(tmp_path / "quantized"), tmp_path / "out")
    counts = {notice.code: notice.count for notice in manifest.notices}
    assert counts.get("no-group-size-fits", 0) == left_float * (1 if tied else 2)
    ids = np.arange(2, 40)
    assert relative_error(forward(Decoder(tmp_path / "out"), ids), reference(model, ids)) < 0.2


def test_l18_inspect_names_the_format_that_works(tmp_path: Path) -> None:
    found = inspect_model(str(write_checkpoint(tmp_path / "model", hidden_size=72, intermediate_size=108)))
    assert [prediction.format for prediction in found.predictions] == ["float", "int8-dynamic"]
    assert "the format int8-dynamic takes any width" in found.not_possible["int4"]


def test_predicted_memory_holds_a_cache_of_the_models_context_where_that_is_shorter(tmp_path: Path) -> None:
    found = {
        length: inspect_model(str(write_checkpoint(tmp_path / str(length), max_position_embeddings=length)))
        for length in (512, 2048, 4096)
    }
    ram = {length: inspection.predictions[0].ram_bytes for length, inspection in found.items()}
    assert ram[2048] - ram[512] == (2048 - 512) * found[512].kv_bytes_per_token
    assert ram[4096] == ram[2048]


def test_q18_inspect_says_that_a_head_width_cannot_be_exported(tmp_path: Path) -> None:
    found = inspect_model(str(write_checkpoint(tmp_path / "model", head_dim=40)))
    assert found.predictions == ()
    assert set(found.not_possible) == {"float", *FORMATS}
    assert all("head_dim = 40: cannot be exported" in reason for reason in found.not_possible.values())


def test_last_logits_is_told_in_the_manifest_and_q3edge_reads_every_position(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    every = export_artifact(str(model), tmp_path / "every", as_float=True)
    last = export_artifact(str(model), tmp_path / "last", as_float=True, last_logits=True)
    assert [notice.code for notice in last.notices if notice not in every.notices] == ["last-logits"]
    ids = np.arange(2, 12)
    found = [forward(Decoder(tmp_path / name, threads=1), ids) for name in ("every", "last")]
    assert found[0].shape == (10, 320)
    assert found[0].tobytes() == found[1].tobytes()


def test_transformers_js_is_told_which_file_to_load(tmp_path: Path) -> None:
    """In a browser its default would be model_quantized.onnx."""
    export_artifact(str(write_checkpoint(tmp_path / "model")), tmp_path / "out", as_float=True)
    assert read_json_object(tmp_path / "out" / "config.json")["transformers.js_config"] == {
        "dtype": "fp32",
        "use_external_data_format": {"model.onnx": 1},
    }


def test_a_tokenizer_as_transformers_5_saves_it_is_told_to_be_rewritten(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    write_tokenizer(model)
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    manifest = export_artifact(str(model), tmp_path / "out", as_float=True)
    assert [notice.code for notice in manifest.notices] == ["tokenizer-config-rewritten"]
    assert read_json_object(tmp_path / "out" / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    manifest.verify(tmp_path / "out")
