"""The table runtime x format as Markdown, from the readings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from readings import Reading


def table(rows: Mapping[str, Mapping[str, Reading]], formats: Sequence[str], missing: Mapping[str, str]) -> str:
    """Render; `missing`: runtime -> why it could not be installed."""
    lines = [f"| runtime | {' | '.join(formats)} | prompts |", "|---" * (len(formats) + 2) + "|"]
    reasons: list[str] = []
    for name, row in rows.items():
        versions = {reading.version for reading in row.values() if reading.version}
        version = " ".join(sorted(versions - {name.split()[-1]}))
        cells = [_cell(row[each], reasons) if each in row else "not run" for each in formats]
        lines.append(f"| {f'{name} {version}'.strip()} | {' | '.join(cells)} | {_encoded(row.values())} |")
    lines += [f"| {name} | " + " | ".join(["not installed"] * len(formats)) + " | |" for name in missing]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    notes += [f"- {name} is not installed: {reason}" for name, reason in missing.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cell(reading: Reading, reasons: list[str]) -> str:
    if reading.failure:
        if reading.failure not in reasons:
            reasons.append(reading.failure)
        return f"fails ({reasons.index(reading.failure) + 1})"
    cell = f"{reading.equal}/{reading.of}"
    if reading.equal == reading.of:
        return cell
    if reading.kl is None or reading.stated_kl is None:
        return f"**{cell}**"
    sign = "<=" if reading.within else ">"
    text = f"{cell}, KL {reading.kl:.1e} {sign} {reading.stated_kl:.1e}"
    return text if reading.within else f"**{text}**"


def _encoded(readings: Iterable[Reading]) -> str:
    counts = {(reading.encoded, reading.of) for reading in readings if reading.encoded is not None}
    return ", ".join(f"{encoded}/{of}" for encoded, of in sorted(counts))
