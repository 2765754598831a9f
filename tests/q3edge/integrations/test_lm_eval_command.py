"""lm-eval's command line with `--model q3edge`: the adapter's scores, and those of lm-eval's own ONNX backend."""

from __future__ import annotations

import json
import sys
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from q3edge.storage.text_files import parse_toml, read_utf8
from tests.helpers.runtime import seal, write_artifact

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra eval)")

import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from q3edge.evaluation.lm_eval import Q3EdgeLM
from q3edge.integrations import lm_eval as command
from tests.helpers.lm_tasks import run_task

ROOT = Path(__file__).resolve().parents[3]
BOS, EOS = 296, 297
CHOICES: list[dict[str, Any]] = [
    {"question": "the cat sat on the", "choices": [" mat", " log", " dog"], "label": 0},
    {"question": "the dog sat on the", "choices": [" cat", " log", " mat"], "label": 1},
]
TASK: dict[str, Any] = {
    "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
    "doc_to_target": "label", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_artifact(tmp_path_factory.mktemp("model") / "artifact", bos_token_id=BOS, eos_token_id=EOS)
    tokens = {"bos_token_id": BOS, "eos_token_id": EOS}
    genai = {"model": {**tokens, "context_length": 128, "decoder": {"filename": "onnx/model.onnx"}}}
    (found / "genai_config.json").write_text(json.dumps(genai))  # which lm-eval's backend reads
    seal(found)
    return found


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def scores(samples: list[dict[str, Any]]) -> list[float]:
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [float(score) for sample in ordered for score, _ in sample["filtered_resps"]]


@pytest.mark.slow
def test_the_command_line_takes_the_model_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, tasks, out = tmp_path / "rows.jsonl", tmp_path / "tasks", tmp_path / "out"
    data.write_text("\n".join(map(json.dumps, CHOICES)))
    tasks.mkdir()
    place = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    (tasks / "tiny.yaml").write_text(json.dumps({"task": "tiny_q3edge", **place, **TASK}))
    known = partial(lm_eval.tasks.TaskManager, include_defaults=False)  # thousands of tasks take half a minute
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", known)
    arguments = [
        "run", "--model", "q3edge", "--model_args", f"path={folder},threads=1", "--tasks", "tiny_q3edge",
        "--include_path", str(tasks), "--output_path", str(out), "--log_samples",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    command.main()
    (written,) = (path for path in out.rglob("*.jsonl") if path.name.startswith("samples_tiny_q3edge_"))
    found = scores(list(map(json.loads, written.read_text().splitlines())))
    with Q3EdgeLM(folder, threads=1) as model:
        own = run_task(model, tmp_path, CHOICES, **TASK)
    assert len(found) == 6
    assert found == pytest.approx(scores(own["samples"]["tiny"]), abs=1e-9)


def test_the_entry_point_is_the_adapter() -> None:
    """By the group in which releases after 0.4.13 look; what they make of it is what this registry makes of one."""
    declared = parse_toml(read_utf8(ROOT / "pyproject.toml", "TOML"), ROOT)["project"]["entry-points"]["lm_eval.models"]
    assert EntryPoint("q3edge", declared["q3edge"], "lm_eval.models").load() is Q3EdgeLM
    command.register()
    command.register()  # twice does no harm
    assert get_model("q3edge") is Q3EdgeLM


def test_scores_are_those_of_lm_eval_s_own_backend_up_to_the_prefix(folder: Path) -> None:
    """lm-eval's backend puts the bos token before a text of its own, the adapter the eos token."""
    backends = pytest.importorskip("lm_eval.models.onnxruntime_ort", reason="lm-eval is older than 0.4.13")
    backend = backends.ONNXRuntimeLM(str(folder), execution_provider="cpu")
    pairs = [(row["question"], choice) for row in CHOICES for choice in row["choices"]]
    text = "the cat sat on the mat and the dog sat on the log"
    with Q3EdgeLM(folder, threads=1) as model:
        own, other = (
            each.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
            for each in (model, backend)
        )
        for (score, greedy), (expected, expected_greedy) in zip(own, other):
            assert score == pytest.approx(expected, abs=1e-3)
            assert greedy == expected_greedy
        rolling = [Instance("loglikelihood_rolling", {}, (text,), 0)]
        ids = model.tok_encode(text, add_special_tokens=False)
        assert model.loglikelihood_rolling(rolling)[0] == pytest.approx(model._score([EOS], ids)[0], abs=1e-6)
        assert backend.loglikelihood_rolling(rolling)[0] == pytest.approx(model._score([BOS], ids)[0], abs=1e-3)
        assert model._score([EOS], ids)[0] != pytest.approx(model._score([BOS], ids)[0], abs=1e-2)
