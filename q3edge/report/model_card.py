"""README.md of an artifact: what it is, what was measured, how to run it, all from the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q3edge.artifact import Manifest
from q3edge.evaluation.distance.kl_names import KL_WORDS
from q3edge.quantization.scheme import Scheme
from q3edge.report.experts import expert_facts
from q3edge.report.runtimes import EXACT_SUMS, EXPERTS, INT8_CACHE, RUNTIMES

CARD_FILE = "README.md"
_NOT_MEASURED = "## Accuracy\n\nNot measured yet: run `q3edge validate . --reference MODEL`."


def write_model_card(folder: Path, manifest: Manifest) -> None:
    """Write folder/README.md."""
    (folder / CARD_FILE).write_text(model_card(manifest), encoding="utf-8")


def model_card(manifest: Manifest) -> str:
    """Render the card as Markdown; numbers appear only where they were measured."""
    metrics = manifest.metrics
    size = f"{metrics['model_bytes'] / 1e6:.1f} MB"
    if "bits_per_weight" in metrics:
        size += f", {metrics['bits_per_weight']:.2f} bits per weight"
    sections = [
        "# Qwen3 for ONNX Runtime on the CPU",
        f"Made by q3edge {manifest.q3edge_version}. Graph and weights: {size}.{_experts(manifest)}",
        _recipe(manifest.recipe),
        *(_embedding if manifest.kind == "embedding" else _decoder)(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _experts(manifest: Manifest) -> str:
    if manifest.fewer_experts is None:
        return ""
    used, own = manifest.fewer_experts
    return f" Each token goes to {used} experts, in place of the {own} that the model was trained with."


def _expert_words(manifest: Manifest) -> str:
    facts = expert_facts(manifest.metrics, {})
    return "" if facts is None else f"## Experts\n\n{' '.join(facts.words)}"


def _decoder(manifest: Manifest) -> list[str]:
    return [
        _validation(manifest.metrics.get("validation")),
        _expert_words(manifest),
        _notices(manifest),
        '## Run\n\n```\nq3edge run . "Hello"\n```',
        _other_runtimes(manifest),
    ]


def _embedding(manifest: Manifest) -> list[str]:
    return [
        _embedding_validation(manifest.metrics.get("embedding_validation")),
        _notices(manifest),
        '## Run\n\n```\nq3edge embed . "A text"\nq3edge embed . --query "A question"\n```',
        "## Other runtimes\n\nThe graph takes `input_ids` and `attention_mask`, int64 [batch, tokens], padded on the "
        "right and with the tokenizer's end token, and gives `sentence_embedding`, float32 [batch, width] of length 1.",
    ]


def _embedding_validation(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return _NOT_MEASURED
    words = report["verdict"]
    return (
        f"## Accuracy\n\nAgainst the float model, on {report['texts']} passages of the build's text. "
        f"{words[:1].upper()}{words[1:]}.\n\n| metric | value |\n|---|---|\n"
        f"| mean cosine with the float vectors | {report['cosine']['value']:.5g} |\n"
        f"| lowest cosine | {report['lowest_cosine']:.5g} |\n"
        f"| same nearest text | {100 * report['nearest']['value']:.3g} % |\n"
        f"| same ten nearest texts | {100 * report['neighbours']['value']:.3g} % |"
    )


def _other_runtimes(manifest: Manifest) -> str:
    int8_cache = manifest.recipe.get("kv_cache") == "int8"
    operator = "experts" in manifest.metrics and manifest.experts == "qmoe"
    versions = {each: each.experts if operator else each.versions for each in RUNTIMES}
    tried = [each for each in RUNTIMES if versions[each] and (each.int8_cache or not int8_cache)]
    model = "mixture of experts" if operator else "demo model in every format"
    parts = [
        "## Other runtimes",
        f"Tried with q3edge's small {model}, not with this one; the code runs in this folder.",
    ]
    needs = ([EXPERTS] if operator else []) + ([INT8_CACHE] if int8_cache else [])
    if needs and (left_out := [each.name for each in RUNTIMES if each not in tried]):
        plain = " Try a model made with `--experts plain` there." if operator else ""
        parts.append(f"{' '.join(needs)} {'Not in' if operator else 'Not with one'}: {', '.join(left_out)}.{plain}")
    schemes = [Scheme(**rule["scheme"]) for rule in manifest.recipe["rules"] if rule["scheme"]]
    if any(scheme.activations == "int8_per_token" for scheme in schemes):
        parts.append(EXACT_SUMS)
    parts += [f"{each.name} ({versions[each]}):\n\n{each.code}" for each in tried]
    return "\n\n".join(parts)


def _recipe(recipe: Mapping[str, Any]) -> str:
    if not recipe["rules"]:
        return "Weights: float32, not quantized."
    lines = ["| tensors | scheme |", "|---|---|"]
    for rule in recipe["rules"]:
        label = Scheme(**rule["scheme"]).label() if rule["scheme"] else "float"
        label += ", or the largest smaller group that divides the width" if rule.get("fit") else ""
        lines.append(f"| `{rule['match']}` | {label} |")
    cache = " int8 KV cache." if recipe.get("kv_cache") == "int8" else ""
    title = f"## Weights\n\nMethod: {recipe['method']}. The first rule that matches a tensor decides.{cache}\n\n"
    return title + "\n".join(lines)


def _validation(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return _NOT_MEASURED
    overall = report["overall"]
    names = {
        "mean_kl": f"{KL_WORDS['text_kl']}, nats",
        "median_kl": "median KL",
        "p99_kl": "99 % KL",
        "p999_kl": "99.9 % KL",
        "top1_agreement": "top-1 agreement",
        "reference_perplexity": "perplexity of the float model",
        "candidate_perplexity": "perplexity of this model",
        "rms_probability_change": "RMS change of the next token's probability",
    }
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for key, name in names.items():
        found = overall[key]
        interval = "" if found["low"] is None else f"{found['low']:.4g} to {found['high']:.4g}"
        lines.append(f"| {name} | {found['value']:.4g} | {interval} |")
    for part, name in (("weights_part", "from the weights alone"), ("activations_part", "from int8 activations")):
        if found := report[part]:
            lines.append(f"| mean KL {name} | {found['mean_kl']['value']:.4g} | |")
    title = (
        f"## Accuracy\n\nAgainst the float model, on {overall['tokens']} tokens of the build's text. "
        f"`q3edge check . --max-kl NATS` reads the {KL_WORDS['text_kl']}."
    )
    words = f"{report['verdict']}.\n\n" if "verdict" in report else ""
    return f"{title}\n\n{words[:1].upper()}{words[1:]}" + "\n".join(lines)


def _notices(manifest: Manifest) -> str:
    if not manifest.notices:
        return ""
    lines = [f"- {notice.detail} ({notice.code}, {notice.count}x)" for notice in manifest.notices]
    return "## Notes\n\n" + "\n".join(lines)
