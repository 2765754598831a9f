"""A reranker's scores are judged beside the float model's, in `validate`, where its files say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3edge.checkpoint.opening import open_model
from q3edge.evaluation.distance.windows import Window
from q3edge.evaluation.validation.reranking import check_scores
from q3edge.evaluation.validation.validate import validate_artifact
from q3edge.pipeline.export import export_artifact
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.embedding import write_modules, write_reranker_checkpoint

WINDOWS = [Window("text", np.random.default_rng(seed).integers(0, 256, 33)) for seed in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_reranker_checkpoint(tmp_path_factory.mktemp("reranker") / "checkpoint")
    export_artifact(str(folder), folder.parent / "unstated", as_float=True)
    write_modules(folder, ["sentence_transformers.models.Transformer", "sentence_transformers.LogitScore"])
    export_artifact(str(folder), folder.parent / "stated", as_float=True)
    return folder


@pytest.mark.parametrize(("name", "found"), [("stated", ["pass"]), ("unstated", [])])
def test_scores_of_a_stated_reranker_are_the_float_models(checkpoint: Path, name: str, found: list[str]) -> None:
    report = validate_artifact(checkpoint.parent / name, open_model(str(checkpoint)), WINDOWS, threads=1)
    checks = [check for check in report.checks if check.name == "reranker_scores"]
    assert [check.status for check in checks] == found
    for check in checks:
        assert check.value is not None
        assert 0 <= check.value < 1e-5
        assert check.reason.startswith("scores of 6 documents differ")


def test_scores_that_have_moved_fail(checkpoint: Path) -> None:
    decoder: Any = Decoder(checkpoint.parent / "stated", threads=1)
    tokenizer = Tokenizer.load(checkpoint.parent / "stated", decoder.config.vocab_size)
    yes = tokenizer.id_of("yes")
    moved = decoder.forward

    class Moved:
        new_cache = staticmethod(decoder.new_cache)

        @staticmethod
        def forward(*arguments: Any, **named: Any) -> Any:
            logits = moved(*arguments, **named).copy()
            logits[..., yes] += 1
            return logits

    spoilt: Any = Moved()
    for rounded, model, status in ((False, spoilt, "fail"), (True, spoilt, "fail"), (True, decoder, "pass")):
        check = check_scores(model, tokenizer, open_model(str(checkpoint)), WINDOWS, rounded=rounded)
        assert check.status == status
