"""Reports with made-up numbers, for the tests of q3edge.report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from q3edge.artifact import Notice
from q3edge.evaluation.distance.statistics import Comparison, Estimate, wilson
from q3edge.evaluation.scorecard.scorecard import Example, Histogram, Scorecard, Slice
from q3edge.evaluation.scorecard.thinking_budgets import BudgetResult, ThinkingBudgets
from q3edge.evaluation.validation.results import CheckResult
from q3edge.report.content import Failure, ReferenceFacts, Report, Speed, Spread, TensorFact, Variant, compared_kl
from q3edge.report.experts import ExpertFacts, ExpertLayer
from q3edge.report.gates import Gates
from q3edge.report.recommendation import recommend
from q3edge.report.thinking import advise

AREAS = {"knowledge": 0.35, "math": 0.25, "code": 0.2, "multilingual": 0.15, "safety": 0.05}
EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 30.0)


def estimate(value: float, spread: float = 0.05) -> Estimate:
    """An interval of `spread` of the value around it."""
    return Estimate(value, value * (1 - spread), value * (1 + spread))


def comparison(kl: float, tokens: int = 4096) -> Comparison:
    """Metrics that all grow with `kl`."""
    return Comparison(
        tokens=tokens,
        windows=8,
        mean_kl=estimate(kl, 0.1),
        median_kl=estimate(kl / 3, 0.1),
        p99_kl=estimate(kl * 8, 0.2),
        p999_kl=estimate(kl * 20, 0.3),
        top1_agreement=estimate(1 - min(0.5, kl), 0.01),
        reference_perplexity=estimate(8.1),
        candidate_perplexity=estimate(8.1 * (1 + kl)),
        log_perplexity_ratio=estimate(kl),
        rms_probability_change=estimate(kl**0.5 / 4),
        max_logit_error=kl,
    )


def scorecard(name: str, kl: float, recovery: float, *, worst: tuple[Example, ...] = (), seed: int = 0) -> Scorecard:
    """A teacher-forced scorecard over five areas and three languages."""
    rng = np.random.default_rng(seed)

    def one(score: float) -> Slice:
        found = min(101.0, recovery + rng.normal(0, 0.7))
        candidate = estimate(score * found / 100, 0.03)
        return Slice(
            60,
            "likelihood",
            "questions",
            estimate(score, 0.03),
            candidate,
            Estimate(found, found - 0.9, found + 0.8),
            comparison(kl),
        )

    counts = rng.multinomial(4096, rng.dirichlet(np.arange(len(EDGES) - 1, 0, -1)))
    return Scorecard(
        mode="teacher-forced",
        artifact=name,
        artifact_digest=f"{seed:064x}",
        reference="Qwen3-0.6B",
        reference_digest="ab" * 32,
        suite_digests={"built-in": "cd" * 32},
        settings={"max_tokens": 4096, "window": 512},
        recovery=Estimate(recovery, recovery - 0.7, recovery + 0.6),
        area_weights=AREAS,
        areas={area: one(0.1 + 0.05 * i) for i, area in enumerate(AREAS)},
        kinds={},
        languages={language: one(0.2) for language in ("en", "zh", "ar")},
        suites={"built-in": one(0.2)},
        overall=comparison(kl),
        histogram=Histogram(EDGES, tuple(int(count) for count in counts)),
        reference_behaviour=None,
        candidate_behaviour=None,
        worst=worst or examples(),
        checks=(CheckResult("finite", "pass", None, None, "all logits are finite"),),
        versions={"onnxruntime": "1.32.0"},
        seconds=12.5,
    )


def examples() -> tuple[Example, ...]:
    """Two places, one with continuations."""
    return (
        Example(
            "built-in", "english 3", "The capital of France is", 1.25, ((" Paris", 0.91), (" the", 0.03)),
            ((" the", 0.4), (" Paris", 0.31), (" a", 0.1)), " Paris, a city on the Seine.", " the city of Paris.",
        ),
        Example("built-in", "code 1", "def add(a, b):\n    return", 0.8, ((" a", 0.97),), ((" b", 0.6), (" a", 0.39))),
    )  # fmt: skip


def variant(
    name: str, size: int, kl: float, recovery: float, *, layers: int = 4, seed: int = 0, **changes: Any
) -> Variant:
    """An artifact with everything measured."""
    rng = np.random.default_rng(seed)
    parts = [f"self_attn.{letter}_proj" for letter in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    tensors = tuple(
        TensorFact(f"model.layers.{i}.{part}.weight", "int4-g32-asym", 4.62, kl * found, 3 * kl * found)
        for i in range(layers)
        for part, found in zip(parts, rng.lognormal(-3, 1, len(parts)))
    )
    rate = 8e9 / size
    speed = Speed(
        Spread(rate, rate * 0.96, rate * 1.03), Spread(8 * rate, 7 * rate, 9 * rate),
        Spread(size + 90e6, size + 89e6, size + 92e6), 3, 128, 0, 32, 2,
    )  # fmt: skip
    found = Variant(
        name=name,
        kind="artifact",
        digest=f"{seed:064x}",
        model_bytes=size,
        bits_per_weight=4.6,
        formats="int4-g32-asym, int8-g32",
        method="gptq",
        scorecard=scorecard(name, kl, recovery, seed=seed),
        speed=speed,
        tensors=tensors,
        notices=(Notice("damping-raised", 2, "matrices needed more damping than usual"),),
        versions={"onnx": "1.23.2"},
        folder=f"out/{name}",
    )
    return replace(found, **changes)


def mixed(found: Variant, *, layers: int = 4, experts: int = 16, seed: int = 0) -> Variant:
    """The variant as a mixture of experts; expert 3 of layer 1 saw nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for layer in range(layers):
        tokens = [int(count) for count in rng.multinomial(4096, rng.dirichlet(np.full(experts, 2.0)))]
        if layer == 1:
            tokens[3] = 0
        losses = tuple(rng.lognormal(-6, 1, experts).tolist())
        made.append(ExpertLayer(layer, tuple(tokens), (4.62,) * experts, losses, 0.97 - 0.01 * layer))
    return replace(found, experts=ExpertFacts("the calibration text", tuple(made)))


def answering(found: Variant, answers: Mapping[int | None, tuple[str, float]]) -> Variant:
    """The variant with thinking budgets: budget -> a 1 for each question answered right, else 0; seconds an answer."""
    assert found.scorecard is not None
    count = len(next(iter(answers.values()))[0])
    names = tuple(f"s: {number}" for number in range(count))
    results = []
    for budget, (digits, seconds) in answers.items():
        right = [digit == "1" for digit in digits]
        wrong = tuple(name for name, known in zip(names, right) if not known)
        areas = {"math": wilson(right[::2]), "code": wilson(right[1::2])}
        share = wilson([budget is not None] * count)
        spent = estimate(seconds)
        results.append(BudgetResult(budget, wilson(right), areas, share, estimate(9.5), spent, seconds, wrong, count))
    timed_on = {"cpu": "Example CPU", "threads": "2", "onnxruntime": "1.32.0"}
    budgets = ThinkingBudgets(names, tuple(results), 640, switched=True, timed_on=timed_on)
    return replace(found, scorecard=replace(found.scorecard, thinking_budgets=budgets))


def make_report(*variants: Variant, gates: Gates | None = None, failures: tuple[Failure, ...] = ()) -> Report:
    """A report of the variants; without any, of a usual set with baselines."""
    chosen = variants or usual_variants()
    reference = ReferenceFacts("Qwen3-0.6B", "ab" * 32, 1_192_000_000, 596_000_000, {"BF16": 311})
    machine: Mapping[str, str] = {"CPU": "Example CPU (2 cores)", "Memory bandwidth": "20 GB/s"}
    chosen_gates = gates or Gates()
    advice = recommend(chosen, chosen_gates, reference.stored_bytes, compared_kl(chosen))
    versions = {"torch": "2.13.0", "onnxruntime": "1.32.0"}
    command = "q3edge report out/a out/b -o report.html --reference Qwen3-0.6B"
    thinking = advise([found for found in chosen if found.kind == "artifact"])
    return Report(reference, tuple(chosen), failures, chosen_gates, advice, machine, versions, command, thinking)


def usual_variants() -> tuple[Variant, ...]:
    """Seven artifacts and three baselines of a 0.6B model."""
    rows = [
        ("int8-g16", 670e6, 0.0012, 99.9), ("int8-g32", 634e6, 0.0016, 99.8), ("int8-dynamic", 605e6, 0.0043, 99.5),
        ("int4-g16", 402e6, 0.021, 98.9), ("int4-g32", 375e6, 0.026, 98.6), ("int4-g64", 362e6, 0.034, 98.1),
        ("int4-g128", 355e6, 0.051, 96.8), ("bpw-3.5", 261e6, 0.14, 93.0),
    ]  # fmt: skip
    artifacts = [
        variant(n, int(size), kl, recovery, layers=28, seed=i) for i, (n, size, kl, recovery) in enumerate(rows)
    ]
    others = [("torch-int8", 1060e6, 0.09, 95.8), ("nf4", 555e6, 0.045, 97.5), ("fp4", 555e6, 0.083, 96.0)]
    baselines = [
        variant(
            n,
            int(size),
            kl,
            recovery,
            seed=20 + i,
            kind="baseline",
            tensors=(),
            formats=n,
            method="library X",
            notices=(),
            folder="",
        )
        for i, (n, size, kl, recovery) in enumerate(others)
    ]
    return (*artifacts, *baselines)
