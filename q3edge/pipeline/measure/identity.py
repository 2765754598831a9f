"""Identity of a scorecard: models, suites, settings and versions, which together decide its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from q3edge.evaluation.distance.windows import WINDOW_LENGTH
from q3edge.evaluation.scorecard.assemble import Identity
from q3edge.evaluation.suites.selection import Selection
from q3edge.evaluation.suites.suite import Suite
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.measure.measurement import AnswerOptions, model_name
from q3edge.version import VERSION


def identity_of(
    candidate: tuple[str, str],
    reference: tuple[str, str],
    suites: Sequence[Suite],
    selection: Selection,
    asking: AnswerOptions | None,
    packages: Sequence[str],
    kernels: Mapping[str, str] | None = None,
) -> Identity:
    """Identity of an evaluation. candidate: name and digest; reference: MODEL (folder or hub id) and digest.

    packages: names of the libraries that compute, whose versions are recorded. kernels: settings that
    say whose kernels computed, of ONNX artifacts.
    """
    areas = None if selection.areas is None else list(selection.areas)
    asked = None if asking is None else asdict(asking) | {"thinking_budgets": [*asking.thinking_budgets]}
    return Identity(
        artifact=candidate[0],
        artifact_digest=candidate[1],
        reference=model_name(reference[0]),
        reference_digest=reference[1],
        suite_digests={suite.name: suite.digest for suite in suites},
        settings={
            "areas": areas,
            "limit": selection.limit,
            "window": WINDOW_LENGTH,
            "generate": asked,
            **(kernels or {}),
        },
        versions={"q3edge": VERSION, **tool_versions(*packages)},
    )  # fmt: skip
