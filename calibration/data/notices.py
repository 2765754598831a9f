"""Counts of dropped and repaired documents, as notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from q3edge.artifact import Notice
from q3edge.calibration.data.mixture import Mixture
from q3edge.calibration.data.records import BadRecord

_WHY_DROPPED = {
    "bad-record": "records make no document",
    "empty": "documents say nothing",
    "too-short": "texts have too few words",
    "symbols": "texts are mostly symbols and numbers",
    "repetitive": "texts repeat themselves",
    "duplicate": "documents are there twice",
    "near-duplicate": "documents are nearly the same as others",
    "refused": "dialogues are refused by the model's chat template",
    "beyond-limit": "documents of a very large file were left out by chance",
}


class Losses:
    """Counts per source file: documents read, dropped by reason; and counts of all else that makes a notice."""

    def __init__(self, sources: int, skipped_files: int) -> None:
        self.read = [0] * sources
        self.dropped: list[Counter[str]] = [Counter() for _ in range(sources)]
        self.skipped_files = skipped_files
        self.repaired = 0  # documents
        self.plain_dialogues = 0
        self._first_problem = ""

    def drop(self, source: int, reason: str, count: int = 1) -> None:
        """Count documents of a source that are not used."""
        self.dropped[source][reason] += count

    def add_bad(self, source: int, name: str, bad: Sequence[BadRecord]) -> None:
        """Count the records of a file that make no document; `name` is the file's."""
        if bad:
            self.drop(source, "bad-record", len(bad))
            self._first_problem = self._first_problem or f"{name}: {bad[0]}"

    def explanation(self, reason: str) -> str:
        """Sentence for the documents dropped for a reason."""
        first = f"; the first is {self._first_problem}" if reason == "bad-record" else ""
        return f"{_WHY_DROPPED[reason]} and are not used for calibration{first}"

    def by_reason(self) -> dict[str, int]:
        """Counts by reason: reason -> documents of all sources, in the order of the steps."""
        total: Counter[str] = sum(self.dropped, Counter())
        return {reason: total[reason] for reason in _WHY_DROPPED if total[reason]}

    def summary(self) -> str:
        """Summary in one phrase: `3 too-short, 1 duplicate of 4 read`."""
        return (
            ", ".join(f"{count} {reason}" for reason, count in self.by_reason().items()) + f" of {sum(self.read)} read"
        )


def notices_of(
    losses: Losses, mixture: Mixture, asked: Mapping[str, float], used: Mapping[str, float], samples: int
) -> tuple[Notice, ...]:
    """Notices of everything dropped or repaired, and of shares and samples that were not reached."""
    return (*_losses(losses), *_shortages(mixture, asked, used, samples))


def _losses(losses: Losses) -> Iterator[Notice]:
    if losses.skipped_files:
        yield Notice("calibration-file-skipped", losses.skipped_files, "files in the given folders have no known type")
    if losses.repaired:
        detail = "documents had invisible or broken characters, which were taken out"
        yield Notice("calibration-repaired", losses.repaired, detail)
    for reason, count in losses.by_reason().items():
        yield Notice(f"calibration-{reason}", count, losses.explanation(reason))
    if losses.plain_dialogues:
        detail = "dialogues were used as plain text: the model has no chat template"
        yield Notice("calibration-no-template", losses.plain_dialogues, detail)


def _shortages(
    mixture: Mixture, asked: Mapping[str, float], used: Mapping[str, float], samples: int
) -> Iterator[Notice]:
    short = {area: n - mixture.rows[area] for area, n in mixture.planned.items() if n > mixture.rows[area]}
    if short:
        told = ", ".join(f"{area} {used.get(area, 0):.0%} of {asked[area]:.0%}" for area in short)
        detail = f"rows went to other areas, for lack of text: {told}"
        yield Notice("calibration-share-not-met", sum(short.values()), detail)
    rows, seq_len = mixture.token_ids.shape
    if rows < samples:
        detail = f"samples are missing: the text fills {rows} of {samples} rows of {seq_len} tokens"
        yield Notice("calibration-fewer-samples", samples - rows, detail)
