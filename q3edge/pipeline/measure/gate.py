"""Whether an artifact is accurate enough: its numbers, from wherever they are known, against the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3edge.artifact import Manifest, artifact_digest
from q3edge.errors import InputError, UsageError
from q3edge.evaluation.distance.kl_names import KLName
from q3edge.evaluation.distance.statistics import Comparison, Estimate
from q3edge.evaluation.plain_values import from_plain
from q3edge.evaluation.scorecard.scorecard import Scorecard, scorecard_from_json
from q3edge.evaluation.validation.results import CheckResult
from q3edge.pipeline.measure.measurement import MeasurementOptions, evaluate_with
from q3edge.report.gates import Gates
from q3edge.runtime.session.loader import open_artifact
from q3edge.storage.json_files import read_json_object


@dataclass(frozen=True, slots=True)
class GateReport:
    """Every gate that was asked for, with its result; `source` says where the numbers come from.

    kl: which KL a gate on the KL reads, by `source`; the other one is None.
    """

    artifact: str
    source: str
    kl: KLName
    recovery: Estimate | None
    text_kl: Estimate | None
    suite_kl: Estimate | None
    results: tuple[CheckResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


def check_artifact(
    folder: Path, gates: Gates, measuring: MeasurementOptions, *, scorecard: Path | None = None
) -> GateReport:
    """Judge the artifact in `folder` by a file (a scorecard's or a report's JSON), else by evaluating it now where
    `measuring` has a reference, else by what its manifest says that `build` measured.

    UsageError: a gate is asked for whose number is not known from there. InputError: a folder or file is broken.
    """
    manifest = open_artifact(folder)
    if scorecard is not None:
        return _judged(folder, gates, scorecard.name, _from_file(scorecard, artifact_digest(folder)))
    if measuring.reference is not None:
        return _judged(folder, gates, "evaluated now", evaluate_with(folder, measuring))
    validation = recorded_validation(manifest)
    return _judged(folder, gates, "the manifest", None, validation.mean_kl if validation else None)


def _judged(
    folder: Path, gates: Gates, source: str, scorecard: Scorecard | None, text_kl: Estimate | None = None
) -> GateReport:
    """By the scorecard where there is one, else by the KL on the build's text."""
    kl: KLName = "suite_kl" if scorecard else "text_kl"
    recovery, suite_kl = (scorecard.recovery, scorecard.suite_kl) if scorecard else (None, None)
    results = gates.judge(recovery, suite_kl if scorecard else text_kl, kl)
    if unknown := [result.reason for result in results if result.status == "skipped"]:
        raise UsageError(f"{folder}: {'; '.join(unknown)}; add --reference MODEL or --scorecard FILE")
    return GateReport(folder.name, source, kl, recovery, text_kl, suite_kl, results)


def recorded_validation(manifest: Manifest) -> Comparison | None:
    """What `build` measured token by token; None where the artifact was only exported. InputError: it is damaged."""
    raw = manifest.metrics.get("validation")
    if raw is None:
        return None
    try:
        return from_plain(Comparison, raw["overall"])
    except (TypeError, KeyError) as error:
        raise InputError(f"q3edge.json: its validation is not this q3edge's ({error}); build again") from None


def _from_file(path: Path, digest: str) -> Scorecard:
    """The scorecard of the artifact with this digest, alone in the file or among a report's variants."""
    if not path.is_file():
        raise InputError(f"{path}: not found; expected the JSON of `q3edge eval` or `q3edge report`")
    raw = read_json_object(path)
    found: list[Mapping[str, Any]] = [raw]
    if "variants" in raw:
        found = [v["scorecard"] for v in raw["variants"] if isinstance(v, Mapping) and v.get("scorecard")]
    try:
        cards = [scorecard_from_json(entry) for entry in found]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    card = next((card for card in cards if card.artifact_digest == digest), None)
    if card is None:
        raise InputError(
            f"{path}: holds no scorecard of this artifact (digest {digest[:12]}); it was made from another"
        )
    return card
