"""Front matter of cards, read back by the hub's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import q3edge
from q3edge.artifact import Manifest
from q3edge.errors import UsageError
from q3edge.pipeline import sharing
from q3edge.quantization.recipe import Recipe
from q3edge.report.card_metadata import CardFacts, has_front_matter, with_front_matter
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_tokenizer


def estimate(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


OVERALL = {
    "mean_kl": estimate(0.0123, 0.011, 0.0136), "top1_agreement": estimate(0.95, 0.94, 0.96),
    "candidate_perplexity": estimate(12.5), "reference_perplexity": estimate(12.25),
}  # fmt: skip
FACTS = CardFacts("my-model", "Qwen/Qwen3-0.6B", "apache-2.0")


def manifest(format_name: str | None = "int4", **metrics: Any) -> Manifest:
    recipe = Recipe((), "float") if format_name is None else Recipe.for_format(format_name)
    return Manifest("onnx", "parent", recipe.to_json(), metrics=metrics)


def card_of(text: str) -> Any:
    """As the hub's library reads it; its types do not tell which fields there are."""
    return ModelCard(text)


def test_the_hub_s_library_reads_what_was_measured() -> None:
    card = card_of(with_front_matter("# Title\n\nWords.\n", manifest(validation={"overall": OVERALL}), FACTS))
    assert card.text.strip() == "# Title\n\nWords."
    assert (card.data.base_model, card.data.license) == ("Qwen/Qwen3-0.6B", "apache-2.0")
    assert card.data.to_dict()["base_model_relation"] == "quantized"
    assert card.data.pipeline_tag == "text-generation"
    assert {"onnx", "q3edge", "int4", "int8"} <= set(card.data.tags)
    results = {found.metric_type: found for found in card.data.eval_results}
    assert {name: found.metric_value for name, found in results.items()} == {
        "kl_divergence": 0.0123, "top1_agreement": 0.95, "perplexity": 12.5, "reference_perplexity": 12.25,
    }  # fmt: skip
    assert results["kl_divergence"].metric_args == {"low": 0.011, "high": 0.0136, "confidence": 0.95}
    assert results["perplexity"].metric_args is None


def test_an_embedding_model_has_its_own_measures() -> None:
    report = {"cosine": estimate(0.998), "nearest": estimate(0.97)}
    found = Manifest(
        "embedding", "parent", Recipe.for_format("int8").to_json(), metrics={"embedding_validation": report}
    )
    data = card_of(with_front_matter("words\n", found, FACTS)).data
    assert data.pipeline_tag == "feature-extraction"
    assert [result.metric_value for result in data.eval_results] == [0.998, 0.97]


def test_nothing_is_said_that_is_not_known() -> None:
    text = with_front_matter("words\n", manifest(None), CardFacts("name", "", ""))
    data = card_of(text).data.to_dict()
    assert data.keys() == {"pipeline_tag", "tags"}
    assert not {tag for tag in data["tags"] if tag.startswith("int")}


@pytest.mark.parametrize(
    ("card", "has"),
    [("---\nlicense: mit\n---\nwords", True), ("---\nwords", False), ("words\n---\nmore\n---\n", False), ("", False)],
)
def test_front_matter_is_recognised(card: str, has: bool) -> None:
    assert has_front_matter(card) is has


def test_the_licence_is_that_of_a_known_base_and_what_is_unknown_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from q3edge.progress import report_to
    from q3edge.terminal import TerminalProgress

    (tmp_path / "README.md").write_text("# Title\n")
    with report_to(TerminalProgress()):
        known = sharing._card(tmp_path, manifest(base_model="Qwen/Qwen3-4B-Instruct-2507"), "me/mine", None, None)
        assert capsys.readouterr().err == ""
        other = sharing._card(tmp_path, manifest(), "me/mine", "org/tuned", None)
        said = capsys.readouterr().err
        sharing._card(tmp_path, manifest(), "me/mine", None, "mit")
    assert known is not None
    assert other is not None
    assert card_of(known).data.license == "apache-2.0"
    assert card_of(other).data.base_model == "org/tuned"
    assert "license" not in card_of(other).data.to_dict()
    assert "the card names no licence; --license names it" in said
    assert "no base model" not in said
    assert "the card names no base model" in capsys.readouterr().err


def test_the_owner_s_front_matter_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert sharing._card(tmp_path, manifest(), "me/mine", None, None) is None
    with pytest.raises(UsageError, match=r"README\.md: has front matter of its own: write the base model"):
        sharing._card(tmp_path, manifest(), "me/mine", "org/base", None)


@pytest.mark.parametrize("as_float", [False, True])
def test_a_checkpoint_of_the_hub_is_named_in_what_is_made_of_it(as_float: bool, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--some-name" / "snapshots" / "0123abcd"
    write_checkpoint(snapshot)
    write_tokenizer(snapshot)
    source = snapshot if as_float else tmp_path / "q"
    if not as_float:
        q3edge.quantize(snapshot, source, "int8", group_size=16, method="rtn")
    q3edge.export(source, tmp_path / "onnx", as_float=as_float)
    assert Manifest.load(tmp_path / "onnx").base_model == "org/some-name"
    q3edge.export(snapshot.rename(tmp_path / "elsewhere"), tmp_path / "other", as_float=True)
    assert Manifest.load(tmp_path / "other").base_model == ""
