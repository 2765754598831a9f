"""What the runtime would refuse is refused before any work, with the name of the user's own file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.errors import InputError
from q3edge.pipeline.build import build_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.quantize.quantize import quantize_checkpoint
from q3edge.quantization.recipe import Recipe

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))
RECIPE = Recipe.for_format("int8")
ROUTES: dict[str, Callable[[str, Path], object]] = {
    "build": lambda model, output: build_artifact(model, output, RECIPE),
    "quantize": lambda model, output: quantize_checkpoint(model, output, RECIPE),
    "export": lambda model, output: export_artifact(model, output, as_float=True),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("file", ["tokenizer.json", "generation_config.json"])
def test_l14_an_unfit_tokenizer_is_found_before_the_work(
    route: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("worked before the files were read")

    model = Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))
    fields = json.loads((model / "tokenizer.json").read_text()) | {"decoder": None}
    (model / "tokenizer.json").write_text(json.dumps(fields))
    if file == "generation_config.json":
        shutil.copy(DEMO_MODEL / "tokenizer.json", model)
        (model / file).write_text('{"do_sample": true, "top_p": 1e400}')
    monkeypatch.setattr("q3edge.pipeline.build.write_quantized", never)
    monkeypatch.setattr("q3edge.pipeline.quantize.quantize.write_quantized", never)
    monkeypatch.setattr("q3edge.pipeline.export.write_artifact", never)
    with pytest.raises(InputError, match=f"{model / file}: "):
        ROUTES[route](str(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()
