"""Front matter of a model card on the hub: what the model was made from, its licence, tags, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from q3edge.artifact import Manifest
from q3edge.evaluation.distance.kl_names import KL_WORDS
from q3edge.quantization.scheme import Scheme

_FENCE = "---"
_TEXT = "q3edge-validation", "the build's text"  # type and name of what was measured on, where it was
# Name in the front matter, of a value in the manifest's validation, and in words.
_MEASURED = (
    ("kl_divergence", "mean_kl", f"{KL_WORDS['text_kl']}, nats"),
    ("top1_agreement", "top1_agreement", "top-1 agreement with the float model"),
    ("perplexity", "candidate_perplexity", "perplexity"),
    ("reference_perplexity", "reference_perplexity", "perplexity of the float model"),
)
_MEASURED_EMBEDDING = (
    ("cosine", "cosine", "mean cosine with the float vectors"),
    ("same_nearest", "nearest", "share of texts with the same nearest text"),
)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the manifest does not say. base_model: hub id; license: the hub's name of it; empty where unknown."""

    name: str
    base_model: str
    license: str


def has_front_matter(card: str) -> bool:
    """Tell whether a card begins with front matter, its owner's own."""
    return card.startswith(f"{_FENCE}\n") and f"\n{_FENCE}\n" in card[len(_FENCE) :]


def with_front_matter(card: str, manifest: Manifest, facts: CardFacts) -> str:
    """Put front matter before a card that has none."""
    assert not has_front_matter(card)
    results = list(_results(manifest))
    rounded = bool(manifest.recipe.get("rules"))
    relation: dict[str, Any] = {"base_model_relation": "quantized"} if facts.base_model and rounded else {}
    data = ModelCardData(
        base_model=facts.base_model or None,
        license=facts.license or None,
        pipeline_tag="feature-extraction" if manifest.kind == "embedding" else "text-generation",
        tags=_tags(manifest),
        model_name=facts.name if results else None,
        eval_results=results or None,
        **relation,
    )
    return f"{_FENCE}\n{data.to_yaml()}\n{_FENCE}\n\n{card}"


def _tags(manifest: Manifest) -> list[str]:
    """Runtimes that find it, and the widths of its weights."""
    rules = [rule["scheme"] for rule in manifest.recipe.get("rules", ()) if rule["scheme"]]
    widths = sorted({f"int{Scheme(**scheme).bits}" for scheme in rules})
    return ["qwen3", "onnx", "onnxruntime", "cpu", "q3edge", *widths]


def _results(manifest: Manifest) -> Iterator[EvalResult]:
    """What was measured, each value with its 95 % interval in its arguments."""
    is_embedding = manifest.kind == "embedding"
    report = manifest.metrics.get("embedding_validation" if is_embedding else "validation")
    if not isinstance(report, Mapping):
        return
    values: Mapping[str, Any] = report if is_embedding else report["overall"]
    for kind, key, words in _MEASURED_EMBEDDING if is_embedding else _MEASURED:
        found = values[key]
        interval = {} if found["low"] is None else {"low": found["low"], "high": found["high"], "confidence": 0.95}
        yield EvalResult(
            task_type="feature-extraction" if is_embedding else "text-generation",
            dataset_type=_TEXT[0],
            dataset_name=_TEXT[1],
            metric_type=kind,
            metric_name=words,
            metric_value=found["value"],
            metric_args=interval or None,
        )
