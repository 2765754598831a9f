"""What `build` promises when a step goes wrong, and what every step leaves in the manifest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from q3edge.architecture.config import Qwen3Config
from q3edge.artifact import DATA_FILE, MODEL_FILE, Manifest
from q3edge.checkpoint import Checkpoint
from q3edge.checkpoint.compressed_tensors import QuantizedCheckpoint
from q3edge.errors import GOES_ON, InputError, ValidationError
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.exporters.onnx import linear
from q3edge.exporters.onnx.linear import Matrices
from q3edge.formats import FORMATS
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.inspect import inspect_model
from q3edge.pipeline.measure.checks import MAX_ERROR_INT8, relative_error, typical_error
from q3edge.pipeline.measure.tensor_facts import tensor_facts
from q3edge.pipeline.quantize.calibrate import CalibrationOptions, work_folder
from q3edge.pipeline.quantize.quantize import quantize_checkpoint, row_blocks
from q3edge.quantization.packing import pack_blocks
from q3edge.quantization.recipe import Recipe, Rule
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import MOE, tiny_config, write_checkpoint
from tests.helpers.runtime import write_tokenizer

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))


def test_a_wrong_export_is_never_promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotated(tensor: QuantizedTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.roll(pack_blocks(tensor), 1, axis=0)

    monkeypatch.setattr(linear, "pack_blocks", rotated)
    with pytest.raises(ValidationError, match="the ONNX model's logits differ from the checkpoint's"):
        build_artifact(str(DEMO_MODEL), tmp_path / "out", Recipe.for_format("int4"))
    assert list(tmp_path.iterdir()) == []


def test_a_float_export_that_is_off_by_a_percent_is_never_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Matrices._float_blocks

    def scaled(
        self: Matrices, runs: Iterable[tuple[str, ...]]
    ) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        stored = list(runs)
        factor = np.float32(1.01 if "down_proj" in stored[0][0] else 1)
        return (block * factor for block in right(self, stored))

    monkeypatch.setattr(Matrices, "_float_blocks", scaled)
    with pytest.raises(ValidationError, match=r"logits differ from the checkpoint's by 0\.0\d+ \(limit 0\.001\)"):
        build_artifact(str(DEMO_MODEL), tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_one_token_that_goes_another_way_is_no_wrong_graph_where_activations_are_rounded() -> None:
    expected = np.random.default_rng(0).normal(size=(32, 320)).astype(np.float32)
    expected[1] *= 30
    found = expected.copy()
    found[1] *= -1
    assert relative_error(found, expected) > 1.5
    assert typical_error(found, expected) == 0
    assert typical_error(np.roll(expected, 1, axis=0), expected) > MAX_ERROR_INT8
    found[5, 7] = np.nan
    assert np.isnan(typical_error(found, expected))


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_builds_and_counts_what_it_wrote(format_name: str, tmp_path: Path) -> None:
    recipe = Recipe.for_format(format_name)
    built = build_artifact(str(DEMO_MODEL), tmp_path / "out", recipe, max_tokens=96)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest == built.manifest
    fitted, _ = recipe.fitted_to(Qwen3Config.load(DEMO_MODEL))
    assert manifest.recipe == {**fitted.to_json(), "method": "rtn"}  # which is what auto means for a small model
    assert manifest.metrics["model_bytes"] == sum(
        record.size for name, record in manifest.files.items() if name.startswith("onnx/")
    )
    assert manifest.metrics["weight_bytes"] < manifest.metrics["model_bytes"] < 1.3 * manifest.metrics["weight_bytes"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("largest smaller group that divides" in card) == (format_name == "int4-fast")


def test_q7_sizes_with_a_float_table_are_those_on_disk(tmp_path: Path) -> None:
    recipe = Recipe((Rule("model.embed_tokens", None), *Recipe.for_format("int4").rules), "rtn")
    quantize_checkpoint(str(DEMO_MODEL), tmp_path / "quantized", recipe)
    manifest = export_artifact(str(tmp_path / "quantized"), tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / MODEL_FILE, load_external_data=False).graph
    in_graph = sum(4 * math.prod(tensor.dims) for tensor in graph.initializer if tensor.name.endswith("norm.weight"))
    on_disk = (tmp_path / "out" / DATA_FILE).stat().st_size + in_graph
    assert manifest.metrics["weight_bytes"] == pytest.approx(on_disk, rel=1e-3)  # tensors are aligned
    facts = {fact.name: fact.bits for fact in tensor_facts(manifest, Qwen3Config.load(DEMO_MODEL))}
    assert facts["model.embed_tokens.weight"] == 32


def test_float_build_equals_the_reference(tmp_path: Path) -> None:
    built = build_artifact(str(DEMO_MODEL), tmp_path / "out", None, max_tokens=96)
    assert {check.name: check.status for check in built.report.checks}["float_kl"] == "pass"
    assert "not quantized" in (tmp_path / "out" / "README.md").read_text()


def test_logits_of_the_last_position_are_told_and_change_no_figure(tmp_path: Path) -> None:
    recipe = Recipe.for_format("int8")
    last = build_artifact(str(DEMO_MODEL), tmp_path / "last", recipe, max_tokens=96, last_logits=True)
    every = build_artifact(str(DEMO_MODEL), tmp_path / "every", recipe, max_tokens=96)
    assert [notice.code for notice in last.manifest.notices if notice not in every.manifest.notices] == ["last-logits"]
    assert "last-logits" in (tmp_path / "last" / "README.md").read_text()
    assert isinstance(last.report, ValidationReport)
    assert isinstance(every.report, ValidationReport)
    assert last.report.overall == every.report.overall
    (logits, *_) = onnx.load(tmp_path / "last" / MODEL_FILE, load_external_data=False).graph.output
    assert [axis.dim_value for axis in logits.type.tensor_type.shape.dim] == [0, 1, 1280]


def test_an_int8_cache_costs_little_and_is_in_the_recipe(tmp_path: Path) -> None:
    recipe = replace(Recipe.for_format("int8"), kv_cache="int8")
    built = build_artifact(str(DEMO_MODEL), tmp_path / "out", recipe, max_tokens=512)
    plain = build_artifact(str(DEMO_MODEL), tmp_path / "plain", Recipe.for_format("int8"), max_tokens=512)
    assert built.manifest.recipe["kv_cache"] == "int8"
    assert Decoder(tmp_path / "out").cache_spec.dtype == "int8"
    assert isinstance(built.report, ValidationReport)
    assert isinstance(plain.report, ValidationReport)
    cost = built.report.overall.mean_kl.value - plain.report.overall.mean_kl.value
    assert abs(cost) < 2e-3
    assert "int8 KV cache" in (tmp_path / "out" / "README.md").read_text()


def test_notices_travel_from_the_checkpoint_to_the_artifact(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    (model / "modeling_custom.py").write_text("raise SystemExit('must never run')")
    quantized = quantize_checkpoint(str(model), tmp_path / "q", Recipe.for_format("int4"))
    exported = export_artifact(str(tmp_path / "q"), tmp_path / "x")
    codes = {notice.code for notice in quantized.notices}
    assert codes == {"remote-code-ignored", "tokenizer-missing"}
    assert {notice.code for notice in exported.notices} == codes
    assert "tokenizer-missing" in (tmp_path / "x" / "README.md").read_text()


def test_a_model_without_a_tokenizer_cannot_be_validated(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        build_artifact(str(model), tmp_path / "out", Recipe.for_format("int4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"\xff", "not UTF-8 text"),
        (b"Short.", "tokens; expected"),
    ],
    ids=["missing", "not UTF-8", "too short"],
)
def test_unfit_texts_are_refused_before_any_work(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("quantized before the texts were read")

    monkeypatch.setattr("q3edge.pipeline.build.write_quantized", never)
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=rf"text\.txt.*: .*{message}"):
        build_artifact(str(DEMO_MODEL), tmp_path / "out", Recipe.for_format("int4"), texts=(text,))
    assert not (tmp_path / "out").exists()


def test_schemes_that_no_operator_of_experts_has_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("weights were written before the schemes were checked")

    monkeypatch.setattr("q3edge.pipeline.quantize.quantize._write_weights", never)
    model = write_checkpoint(tmp_path / "model", **MOE)
    write_tokenizer(model)
    down = Rule("*.experts.*.down_proj", Scheme(8, 32))
    recipe = Recipe((down, *Recipe.for_format("int4").rules), "rtn")
    with pytest.raises(InputError, match="takes the same number of bits for gate, up and down; give all experts"):
        build_artifact(str(model), tmp_path / "out", recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_damaged_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    quantize_checkpoint(str(model), tmp_path / "q", Recipe.for_format("int8"))
    weights = tmp_path / "q" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: sha256 differs"):
        export_artifact(str(tmp_path / "q"), tmp_path / "x")


def test_artifact_config_is_the_models_own(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    quantize_checkpoint(str(model), tmp_path / "q", Recipe.for_format("int4"))
    export_artifact(str(tmp_path / "q"), tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert "quantization_config" not in config
    assert {key: config[key] for key in tiny_config()} == tiny_config()


def test_what_a_recipe_or_a_shape_makes_useless_is_said(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", head_dim=40)
    scheme = Scheme(4, 32)
    rules = tuple(Rule(match, scheme) for match in ("*.down_proj", "*.mlp.*_proj", "*.up_proj"))
    manifest = quantize_checkpoint(str(model), tmp_path / "q", Recipe(rules, "rtn"))
    notices = {notice.code: notice.detail for notice in manifest.notices}
    assert notices["rule-without-effect"].endswith("decide all of their tensors: 3 (*.up_proj)")
    assert notices["not-exportable"].startswith(
        "`q3edge export` will refuse this checkpoint: config.json: head_dim = 40"
    )
    model = write_checkpoint(tmp_path / "other")
    notices = {n.code: n.detail for n in quantize_checkpoint(str(model), tmp_path / "r", Recipe(rules, "rtn")).notices}
    assert "not-exportable" not in notices


def test_row_blocks_cover_every_row_once_in_multiples_of_32() -> None:
    for rows, width in ((1, 1), (31, 1 << 20), (100, 1 << 17), (151936, 1024), (5000, 9728)):
        blocks = list(row_blocks(rows, width))
        assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
        assert all((block.stop - block.start) % 32 == 0 for block in blocks[:-1])


def test_experts_can_be_quantized_and_inspected(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", **MOE)
    quantize_checkpoint(str(model), tmp_path / "q", Recipe.for_format("int4"))
    with Checkpoint.open(model) as floats, QuantizedCheckpoint.open(tmp_path / "q") as quantized:
        for name in floats.names():
            error = np.abs(quantized.read(name) - floats.read(name)).max() / np.abs(floats.read(name)).max()
            assert error < 0.2
        assert quantized.scheme("model.layers.0.mlp.experts.3.down_proj.weight") == Scheme(4, 32, symmetric=False)
        assert quantized.scheme("model.layers.0.mlp.gate.weight") is None
    inspection = inspect_model(str(model))
    assert [prediction.format for prediction in inspection.predictions] == ["float", *FORMATS]


def test_scales_out_of_range_are_counted_in_the_manifest(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"][0] *= 1e-12
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    manifest = quantize_checkpoint(str(model), tmp_path / "q", Recipe.for_format("int4"))
    (notice,) = [notice for notice in manifest.notices if notice.code == "scale-out-of-range"]
    assert notice.count == 128 // 32
    assert "most in model.layers.1.self_attn.o_proj (4 of 256 groups, " in notice.detail


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_q17_scales_out_of_range_name_the_worst_tensors_and_are_no_success_where_they_cost(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm follows the products: the float model is the same at 1e9, and its attention nearly uniform at 1e-12."""
    read = Checkpoint.read

    def scaled(self: Checkpoint, name: str, rows: slice | None = None) -> Any:
        values = read(self, name, rows)
        return values * np.float32(factor) if name.endswith(("q_proj.weight", "k_proj.weight")) else values

    monkeypatch.setattr(Checkpoint, "read", scaled)
    recipe = replace(Recipe.for_format("int4"), method="rtn")
    worst = r"most in model\.layers\.0\.self_attn\.q_proj \(3072 of 3072 groups, 100 % of its squared weights\), "
    if factor > 1:
        with pytest.raises(ValidationError, match=f"{worst}.* and 5 tensors more; keep these float in a recipe"):
            build_artifact(str(DEMO_MODEL), tmp_path / "a", recipe, max_tokens=64)
        assert not (tmp_path / "a").exists()
        return
    built = build_artifact(str(DEMO_MODEL), tmp_path / "a", recipe, max_tokens=64)
    (notice,) = [notice for notice in built.manifest.notices if notice.code == "scale-out-of-range"]
    assert re.search(worst, notice.detail)
    (check,) = [check for check in built.report.checks if check.name == "lost_scales"]
    assert (check.status, check.value) == ("pass", 1.0)
    assert check.reason.endswith("nats allows it")


@pytest.mark.parametrize("goes_on", [False, True], ids=["rounded", "calibrated"])
@pytest.mark.parametrize("stopped_in", ["quantize.quantize.copy_side_files", "build.validate_artifact"])
def test_u20_only_work_of_this_build_is_said_to_go_on(
    goes_on: bool, stopped_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished calibration of another command may lie there."""

    def stopped(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"q3edge.pipeline.{stopped_in}", stopped)
    if not goes_on:
        work_folder(tmp_path / "out").mkdir()
    recipe = replace(Recipe.for_format("int8"), method="gptq" if goes_on else "rtn")
    calibration = CalibrationOptions(samples=2, seq_len=16) if goes_on else None
    with pytest.raises(KeyboardInterrupt) as caught:
        build_artifact(str(DEMO_MODEL), tmp_path / "out", recipe, calibration)
    assert (GOES_ON in getattr(caught.value, "__notes__", ())) == goes_on
