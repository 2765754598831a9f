"""`quantize` with calibration: goes on where it was killed, and refuses work that belongs to other inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge import progress
from q3edge.artifact import MANIFEST_FILE
from q3edge.checkpoint import Checkpoint
from q3edge.errors import UsageError
from q3edge.pipeline.quantize import calibrate
from q3edge.pipeline.quantize.calibrate import CalibrationOptions, choose_method, work_folder
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from tests.helpers.calibration import killed_after_the_first_layer, random_tokens, solver_calls
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_tokenizer


class Quantizing:
    """`quantize_checkpoint` on a small model with a token file; what a user may change between two runs is a field."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.model = write_checkpoint(folder / "model", num_hidden_layers=2)
        write_tokenizer(self.model)
        self.tokens, self.recipe, self.restart = random_tokens(6, 16, vocab=300), Recipe.for_format("int4"), False

    def __call__(self) -> dict[str, bytes]:
        file = self.folder / "tokens.npy"
        np.save(file, self.tokens)
        calibration = CalibrationOptions((file,), restart=self.restart)
        quantize_checkpoint(str(self.model), self.output, self.recipe, calibration, overwrite=True)
        return {path.name: path.read_bytes() for path in self.output.iterdir()}

    def killed_after_the_first_layer(self) -> None:
        with killed_after_the_first_layer():
            self()


def test_quantize_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = Quantizing(tmp_path)
    whole = quantize()
    assert MANIFEST_FILE in whole
    assert not work_folder(quantize.output).exists()
    quantize.killed_after_the_first_layer()
    assert work_folder(quantize.output).exists()
    assert {path.name: path.read_bytes() for path in quantize.output.iterdir()} == whole
    calls = solver_calls(monkeypatch)
    assert quantize() == whole
    assert calls == [1, 2]
    assert not work_folder(quantize.output).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "tokens.npy"]


@pytest.mark.parametrize(("format_name", "method"), [("int4", "gptq"), ("int8", "rtn"), ("int8-dynamic", "gptq")])
def test_large_models_are_calibrated_unasked_where_rounding_harms(
    format_name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = write_checkpoint(tmp_path / "model"), Recipe.for_format(format_name)
    write_tokenizer(model)
    with Checkpoint.open(model) as checkpoint:
        assert choose_method(checkpoint, recipe, None)[0].method == "rtn"
        monkeypatch.setattr(calibrate, "_LARGE_MODEL", 50_000)
        assert choose_method(checkpoint, recipe, None)[0].method == method


@pytest.mark.parametrize("given", [{"samples": 16}, {"seq_len": 64}, {"texts": (Path("text.txt"),)}], ids=str)
def test_options_of_a_calibration_ask_for_one(given: dict[str, Any], tmp_path: Path) -> None:
    model, recipe = write_checkpoint(tmp_path / "model"), Recipe.for_format("int4")
    write_tokenizer(model)
    with Checkpoint.open(model) as checkpoint:
        assert choose_method(checkpoint, recipe, CalibrationOptions())[0].method == "rtn"
        assert choose_method(checkpoint, recipe, CalibrationOptions(**given))[0].method == "gptq"
        with pytest.raises(UsageError, match="--method rtn uses no text"):
            choose_method(checkpoint, replace(recipe, method="rtn"), CalibrationOptions(**given))


def test_an_int8_cache_needs_rows_of_text_even_where_weights_are_rounded(tmp_path: Path) -> None:
    recipe = replace(Recipe.for_format("int4"), method="rtn", kv_cache="int8")
    with Checkpoint.open(write_checkpoint(tmp_path / "model")) as checkpoint:
        assert choose_method(checkpoint, recipe, CalibrationOptions(samples=16, seq_len=64)) == (recipe, ())
        with pytest.raises(UsageError, match="--method rtn uses no text"):
            choose_method(checkpoint, recipe, CalibrationOptions(samples=16, reconstruct=True))


def test_u14_the_text_of_an_int8_cache_is_read_before_weights_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> Any:
        raise AssertionError("weights were rounded")

    monkeypatch.setattr("q3edge.pipeline.quantize.quantize._write_weights", forbidden)
    model, recipe = write_checkpoint(tmp_path / "model"), Recipe.for_format("int4")
    write_tokenizer(model)
    recipe = replace(recipe, method="rtn", kv_cache="int8")
    with pytest.raises(UsageError, match=r"sequence length 600: expected 16\.\.512"):
        quantize_checkpoint(str(model), tmp_path / "q", recipe, CalibrationOptions(seq_len=600))


def other_recipe(quantize: Quantizing) -> None:
    quantize.recipe = Recipe.for_format("int4", 16)


def other_tokens(quantize: Quantizing) -> None:
    quantize.tokens = quantize.tokens[:, ::-1].copy()


def other_model(quantize: Quantizing) -> None:
    write_checkpoint(quantize.model, seed=1, num_hidden_layers=2)


def test_work_of_other_code_is_refused_and_never_answered_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = Quantizing(tmp_path)
    quantize.killed_after_the_first_layer()
    asked: list[str] = []
    monkeypatch.setattr(calibrate, "code_digest", lambda *names: asked.extend(names) or "0" * 64)  # type: ignore[func-returns-value]
    with pytest.raises(UsageError, match=r"other inputs: q3edge's calibration code changed; .*--restart"):
        quantize()
    assert {"calibration.rounding", "reference", "checkpoint"} <= {*asked}
    calls = solver_calls(monkeypatch)
    quantize.restart = True
    quantize()
    assert calls == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "name"), [(other_recipe, "recipe"), (other_tokens, "calibration tokens"), (other_model, "model")]
)
def test_quantize_refuses_to_go_on_with_something_else(
    change: Callable[[Quantizing], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = Quantizing(tmp_path)
    quantize.killed_after_the_first_layer()
    change(quantize)
    with pytest.raises(UsageError, match=f"other inputs: {name} changed"):
        quantize()
    assert not quantize.output.exists()
    calls = solver_calls(monkeypatch)
    quantize.restart = True
    found = quantize()
    assert calls == [0, 1, 2]
    quantize.restart = False
    assert quantize() == found


def test_l13_a_context_shorter_than_the_default_rows_shortens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint(tmp_path / "model", max_position_embeddings=40)
    write_tokenizer(model)
    notes: list[str] = []
    listener = progress.Silent()
    monkeypatch.setattr(listener, "note", notes.append)
    with Checkpoint.open(model) as checkpoint, progress.report_to(listener):
        found = calibrate.load_tokens(checkpoint, CalibrationOptions(samples=3))
        assert found.token_ids.shape == (3, 40)
        with pytest.raises(UsageError, match="sequence length 41: expected 16"):  # who asks for more is told
            calibrate.load_tokens(checkpoint, CalibrationOptions(samples=3, seq_len=41))
    assert notes == ["calibration rows have 40 tokens, the model's whole context"]
