"""Codes of another tool that `quantize` and `build` keep: exact, counted, and quantized anew by a chosen format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from q3edge.architecture.tensors import EMBEDDING
from q3edge.artifact import Notice
from q3edge.checkpoint import open_quantized_model
from q3edge.errors import UsageError
from q3edge.evaluation.validation.results import ValidationReport
from q3edge.library.requests import recipe_for
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.inspect import inspect_model
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe
from q3edge.quantization.scheme import Scheme
from tests.helpers.layouts import Codes, Tensors, packed_words, random_codes, write_layout
from tests.helpers.models import MOE
from tests.helpers.runtime import write_tokenizer

DOWN = "model.layers.1.mlp.down_proj.weight"
DEFAULT = recipe_for(None, None, None, None, None)


def gptq(codes: Codes) -> Tensors:
    return {
        "qweight": packed_words(codes.codes.T, 4),
        "qzeros": packed_words(codes.zero_points - 1, 4).T,
        "scales": torch.from_numpy(codes.scales.T.copy()),
    }


def write(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Codes]:
    written = write_layout(
        folder, {"quant_method": "gptq", "bits": 4, "group_size": 32},
        lambda shape, seed: random_codes(shape, 4, 32, symmetric=False, dtype=dtype, seed=seed),
        gptq,
    )  # fmt: skip
    write_tokenizer(folder)
    return written


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float16, "float16"), (torch.float32, "float32")])
def test_codes_and_scales_are_kept_exactly(tmp_path: Path, dtype: torch.dtype, scales: str) -> None:
    written = write(tmp_path / "m", dtype)
    manifest = quantize_checkpoint(str(tmp_path / "m"), tmp_path / "q", DEFAULT)
    with open_quantized_model(tmp_path / "q") as model:
        for name, codes in written.items():
            assert model.scheme(name) == Scheme(4, 32, symmetric=False, scales=scales)  # type: ignore[arg-type]
            np.testing.assert_array_equal(model.read_quantized(name).codes, codes.codes)
            np.testing.assert_array_equal(model.read(name), codes.values)
        assert model.scheme(EMBEDDING) == Scheme(8, 32)  # float until then: 8 bits
    (told,) = (notice for notice in manifest.notices if notice.code == "codes-kept")
    assert told == Notice("codes-kept", 14, "codes kept: 14 of 15 matrices, as they are stored (GPTQ 4 bits)")
    assert manifest.recipe["method"] == "keep"
    assert len(manifest.recipe["rules"]) < 14  # layers alike are one rule
    recipe = Recipe.from_json(manifest.recipe)
    assert recipe.scheme_for(DOWN, 128) == Scheme(4, 32, symmetric=False, scales=scales)  # type: ignore[arg-type]


def test_the_exported_model_computes_with_them(tmp_path: Path) -> None:
    write(tmp_path / "m")
    built = build_artifact(str(tmp_path / "m"), tmp_path / "out", DEFAULT)
    assert any(notice.code == "codes-kept" for notice in built.manifest.notices)
    in_float = build_artifact(str(tmp_path / "m"), tmp_path / "float", None)
    assert in_float.manifest.recipe["rules"] == []
    assert isinstance(built.report, ValidationReport)
    assert built.report.text_kl.value < 0.005  # the 8 bits of the table and rounded activations: its codes cost nothing


def test_a_chosen_format_quantizes_anew_and_says_so(tmp_path: Path) -> None:
    write(tmp_path / "m")
    recipe = recipe_for("int8", None, None, None, None)
    manifest = quantize_checkpoint(str(tmp_path / "m"), tmp_path / "q", recipe)
    with open_quantized_model(tmp_path / "q") as model:
        assert model.scheme(DOWN) == Scheme(8, 16)
    (told,) = (notice for notice in manifest.notices if notice.code == "dequantized")
    assert told.count == 14
    assert (
        told.detail
        == "matrices of GPTQ 4 bits are read as floats and quantized anew (as a format or method was chosen)"
    )


def test_kept_codes_are_not_calibrated(tmp_path: Path) -> None:
    write(tmp_path / "m")
    with pytest.raises(UsageError, match=r"its codes are kept.* or give a --format to quantize it anew"):
        quantize_checkpoint(str(tmp_path / "m"), tmp_path / "q", DEFAULT, CalibrationOptions(tune=True))
    with pytest.raises(UsageError, match="--method keep keeps the format that is there"):
        recipe_for("int4", None, None, "keep", None)
    assert not (tmp_path / "q").exists()


def test_experts_of_a_layer_get_one_scheme_that_holds_all_codes(tmp_path: Path) -> None:
    def mixed(shape: tuple[int, int], seed: int) -> Codes:
        symmetric, dtype = bool(seed % 3), torch.float32 if seed % 4 == 0 else torch.float16
        return random_codes(shape, 4, 32, symmetric=symmetric, dtype=dtype, seed=seed)

    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    written = write_layout(tmp_path / "m", settings, mixed, gptq, **MOE)
    write_tokenizer(tmp_path / "m")
    built = build_artifact(str(tmp_path / "m"), tmp_path / "out", DEFAULT)  # the operator takes them
    assert built.manifest.metrics["experts"] == "qmoe"
    quantize_checkpoint(str(tmp_path / "m"), tmp_path / "q", DEFAULT)
    with open_quantized_model(tmp_path / "q") as model:
        for name, codes in written.items():
            if ".experts." in name:
                assert model.scheme(name) == Scheme(4, 32, symmetric=False, scales="float32")
            np.testing.assert_array_equal(model.read(name), codes.values)


def test_a_float_export_of_another_tools_codes_is_told(tmp_path: Path) -> None:
    write(tmp_path / "m")
    manifest = export_artifact(str(tmp_path / "m"), tmp_path / "f", as_float=True)
    assert ("dequantized", 14) in [(notice.code, notice.count) for notice in manifest.notices]
    with pytest.raises(UsageError, match="is a checkpoint that another tool quantized; quantize it first"):
        export_artifact(str(tmp_path / "m"), tmp_path / "g")


def test_inspect_says_that_there_are_codes(tmp_path: Path) -> None:
    write(tmp_path / "m")
    found = inspect_model(str(tmp_path / "m"))
    assert found.dtypes == {"BF16": 10, "GPTQ 4 bits": 14}
    (told,) = (notice for notice in found.notices if notice.code == "has-codes")
    assert told.count == 14
    assert "`q3edge build` keeps those that fit" in told.detail
