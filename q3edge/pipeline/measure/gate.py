"""Gate check of an artifact: its measured or recorded numbers against the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3edge.artifact import Manifest, artifact_digest, folder_name
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

_EXPECTED = "expected the JSON of `q3edge eval` or `q3edge report`"


@dataclass(frozen=True, slots=True)
class GateReport:
    """Result of every gate that was asked for, and the scorecard's checks that failed.

    source: where the numbers come from.
    kl: which of the KLs the gate reads: suite_kl from a scorecard, text_kl from a manifest; the other is None.
    """

    artifact: str
    source: str
    kl: KLName
    recovery: Estimate | None
    text_kl: Estimate | None
    suite_kl: Estimate | None
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Gates that failed."""
        return tuple(result for result in self.results if result.status == "fail")

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def check_artifact(
    folder: Path, gates: Gates, measuring: MeasurementOptions, *, scorecard: Path | None = None
) -> GateReport:
    """Check the artifact in `folder` against the gates.

    The numbers come from the file `scorecard` (JSON of a scorecard or a report), else from an evaluation, now or
    in the cache, if `measuring` has a reference, else from the manifest, where `build` recorded the KL on its text.
    UsageError: a gate needs a number that this source lacks. InputError: a folder or file is broken.
    """
    manifest = open_artifact(folder)
    if scorecard is not None:
        return _apply_gates(folder, gates, scorecard.name, _from_file(scorecard, artifact_digest(folder)))
    if measuring.reference is not None:
        return _apply_gates(
            folder, gates, f"its evaluation against {measuring.reference}", evaluate_with(folder, measuring)
        )
    validation = recorded_validation(manifest)
    return _apply_gates(folder, gates, "what its build measured", None, validation.mean_kl if validation else None)


def _apply_gates(
    folder: Path, gates: Gates, source: str, scorecard: Scorecard | None, text_kl: Estimate | None = None
) -> GateReport:
    """Apply the gates to the scorecard if there is one, else to the KL on the build's text."""
    kl: KLName = "suite_kl" if scorecard else "text_kl"
    recovery, suite_kl = (scorecard.recovery, scorecard.suite_kl) if scorecard else (None, None)
    broken = tuple(check for check in scorecard.checks if check.status == "fail") if scorecard else ()
    results = (*gates.judge(recovery, suite_kl if scorecard else text_kl, kl), *broken)
    if missing := [result.reason for result in results if result.status == "skipped"]:
        raise UsageError(f"{folder}: {'; '.join(missing)}; add --reference MODEL or --scorecard FILE")
    return GateReport(folder_name(folder), source, kl, recovery, text_kl, suite_kl, results)


def recorded_validation(manifest: Manifest) -> Comparison | None:
    """Read what `build` measured on its text; None if the artifact was only exported. InputError: it is damaged."""
    raw = manifest.metrics.get("validation")
    if raw is None:
        return None
    try:
        return from_plain(Comparison, raw["overall"])
    except (TypeError, KeyError) as error:
        raise InputError(f"q3edge.json: its validation is not this q3edge's ({error}); build again") from None


def _from_file(path: Path, digest: str) -> Scorecard:
    """Read the scorecard of the artifact with this digest, alone in the file or among a report's variants."""
    if not path.is_file():
        raise InputError(f"{path}: not found; {_EXPECTED}")
    raw = read_json_object(path, _EXPECTED)
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
