"""Models of another exporter: run as onnxruntime runs them, made in an environment of their own, or told why not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.evaluation.distance.streams import decoder_logits
from q3edge.evaluation.exported_baselines import EXPORTED, OPTIMUM_PYTHON, ExportedDecoder
from q3edge.pipeline.measure.exported_variants import measure_exported
from q3edge.pipeline.measure.measurement import MeasurementOptions
from q3edge.pipeline.sweep.variants import parse_variants
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.runtime import write_artifact

DEMO_MODEL = Path(__file__).resolve().parents[3] / "q3edge" / "data" / "demo_model"
OPTIMUM = EXPORTED["optimum-int8"]


def runnable() -> bool:
    try:
        OPTIMUM.check()
    except ResourceError:
        return False
    return True


needs_optimum = pytest.mark.skipif(not runnable(), reason=f"no environment with optimum-onnx ({OPTIMUM_PYTHON})")


def interpreter(folder: Path, says: str, code: int = 0) -> str:
    """A program that stands for a Python: says a line whatever it is asked."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{says}'\necho 'it broke' >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_decoder_of_a_plain_export_gives_q3edge_s_own_logits(tmp_path: Path) -> None:
    """A folder of q3edge's is such an export too: whole, in chunks, and with the last positions alone."""
    folder = write_artifact(tmp_path / "artifact")
    plain = ExportedDecoder(folder / "onnx" / "model.onnx", Qwen3Config.load(folder), threads=1)
    own = Decoder(folder, threads=1)
    ids = np.random.default_rng(3).integers(0, 300, 40)
    expected = np.concatenate(list(decoder_logits(own, ids)))
    assert np.abs(np.concatenate(list(decoder_logits(plain, ids))) - expected).max() < 1e-4
    cache = plain.new_cache(40)
    for start, stop in ((0, 1), (1, 17), (17, 40)):
        found = plain.forward(ids[None, start:stop], cache, keep=0)[0]
        assert np.abs(found - expected[start:stop]).max() < 1e-4
    assert plain.forward(ids[None, :1], cache, keep=1).shape == (1, 1, expected.shape[1])
    assert cache.length == 41


def test_what_is_no_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="onnxruntime cannot load it"):
        ExportedDecoder(tmp_path / "model.onnx", Qwen3Config.load(DEMO_MODEL))


def test_the_sweep_knows_the_name() -> None:
    (asked,) = parse_variants(["optimum-int8"])
    assert asked.baseline == "optimum-int8"
    with pytest.raises(UsageError, match=r"or a baseline: .*, optimum-int8"):
        parse_variants(["optimum-int9"])


def test_without_an_environment_the_way_to_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"optimum-onnx": None, "torch": "2.13"}
    monkeypatch.setenv(OPTIMUM_PYTHON, interpreter(tmp_path, json.dumps(versions)))
    with pytest.raises(ResourceError, match=rf"this needs an environment with optimum-onnx: .*{OPTIMUM_PYTHON}=ENV"):
        OPTIMUM.check()
    for program in (interpreter(tmp_path, "no json"), interpreter(tmp_path, "", code=1), str(tmp_path / "none")):
        monkeypatch.setenv(OPTIMUM_PYTHON, program)
        with pytest.raises(ResourceError, match=f"is no Python that runs .*; correct {OPTIMUM_PYTHON}"):
            OPTIMUM.check()


def test_an_export_that_fails_says_what_the_exporter_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIMUM_PYTHON, interpreter(tmp_path, "working", code=1))
    with pytest.raises(InputError, match=r"demo_model: optimum does not export it \(it broke\)"):
        OPTIMUM.make(DEMO_MODEL, tmp_path)
    monkeypatch.setenv(OPTIMUM_PYTHON, interpreter(tmp_path, "working"))
    with pytest.raises(InputError, match=r"optimum does not export it \(it broke\)"):  # it wrote no model
        OPTIMUM.make(DEMO_MODEL, tmp_path)


def test_a_measured_export_is_a_variant_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float export of q3edge's stands for optimum's: its distance from the float model is none."""
    monkeypatch.setenv("Q3EDGE_CACHE", str(tmp_path / "cache"))
    folder = write_float(tmp_path)
    monkeypatch.setattr(type(OPTIMUM), "versions", lambda _: {"optimum-onnx": "0.1.0", "transformers": "4.57.6"})
    made: list[Path] = []

    def make(_: Any, checkpoint: Path, out: Path) -> Path:
        made.append(checkpoint)
        return folder / "onnx" / "model.onnx"

    monkeypatch.setattr(type(OPTIMUM), "make", make)
    found = measure_exported(OPTIMUM, MeasurementOptions(reference=str(DEMO_MODEL), limit=4, speed=True, threads=1))
    again = measure_exported(OPTIMUM, MeasurementOptions(reference=str(DEMO_MODEL), limit=4, speed=True, threads=1))
    assert made == [DEMO_MODEL]  # the second time everything was measured
    assert again == found
    assert (found.kind, found.method) == ("baseline", "optimum-onnx 0.1.0")
    assert found.model_bytes == sum(path.stat().st_size for path in (folder / "onnx").iterdir())
    assert found.scorecard is not None
    assert found.scorecard.overall is not None
    assert found.scorecard.overall.mean_kl.value < 1e-6
    assert found.speed is not None
    assert found.speed.tokens_per_second.median > 0
    assert found.versions is not None
    assert found.versions["transformers (exporter)"] == "4.57.6"
    assert found.missing == ("peak memory: it was timed in the process that measures",)


def write_float(home: Path) -> Path:
    import q3edge

    q3edge.export(DEMO_MODEL, home / "float", as_float=True)
    return home / "float"


@needs_optimum
@pytest.mark.slow
def test_optimum_s_own_export_of_the_demo_model(tmp_path: Path) -> None:
    """Further from the float model than any 8 bits of q3edge's, and near enough to be that model."""
    model = OPTIMUM.make(DEMO_MODEL, tmp_path)
    assert os.path.getsize(model) < 5_000_000
    decoder = ExportedDecoder(model, Qwen3Config.load(DEMO_MODEL), threads=1)
    ids = np.random.default_rng(3).integers(0, 1000, 24)
    with torch.no_grad():
        truth = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
        expected = truth(torch.tensor(ids[None])).logits[0].numpy()
    found = np.concatenate(list(decoder_logits(decoder, ids)))
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert 0.9 < correlation < 1
