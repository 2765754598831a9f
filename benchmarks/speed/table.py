"""The results of the speed benchmark as text: what was measured on which machine, one Markdown table, notes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker import FIRST_TOKEN_PROMPT

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from processes import spread


def table(results: Mapping[str, Any]) -> str:
    """Every row, in the order of the tools; failed ones say why."""
    work, rows = results["work"], results["rows"].values()
    columns = ["tool", "variant", "MB on disk", f"prefill {work['prompt']}, tok/s"]
    columns += [f"decode at {depth}, tok/s" for depth in work["depths"]]
    columns += ["load s", "first token s", "peak MB", "rounds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cells(row, work, len(columns), len(results["runs"]) > 1)) + " |" for row in rows]
    notes = [f"- {row['tool']} {row['variant']}: {row['note']}" for row in rows if row.get("note")]
    return "\n".join([*_head(results), "", *lines, "", *notes])


def _head(results: Mapping[str, Any]) -> list[str]:
    work, machine = results["work"], results["machine"]
    lines = [
        f"{results['checkpoint']} on {machine['cpu']}, {machine['flags']}; {work['threads']} threads.",
        f"Prefill of {work['prompt']} tokens; {work['new']} greedy tokens at each depth; first token of a prompt of "
        f"{FIRST_TOKEN_PROMPT}, from the start of the process; peak of {work['prompt']} + {work['new']} tokens. "
        "Median [min, max].",
    ]
    for started, run in results["runs"].items():
        speed = spread([value / 1e9 for value in run["read_bandwidth"]], 1)
        lines.append(f"Run of {started}: {work['threads']} threads together read {speed} GB/s from memory.")
    return lines


def _cells(row: Mapping[str, Any], work: Mapping[str, Any], width: int, tell_run: bool) -> list[str]:
    variant = row["variant"] + (f" (run of {row['run']})" if tell_run else "")
    tool = f"{row['tool']} {row['version']}".strip()
    if row["failure"]:
        return [tool, variant, row["failure"], *[""] * (width - 3)]
    rounds = row["rounds"]

    def rate(tokens: int, seconds: list[float]) -> str:
        return spread([tokens / value for value in seconds], 1)

    return [
        tool, variant, f"{row['bytes'] / 1e6:.1f}",
        rate(work["prompt"], [found["prefill"] for found in rounds]),
        *(rate(work["new"], [found["decode"][str(depth)] for found in rounds]) for depth in work["depths"]),
        spread([found["load"] for found in rounds], 2),
        spread([found["first_token"] for found in rounds], 2),
        spread([found["peak_bytes"] / 1e6 for found in rounds], 0),
        str(len(rounds)),
    ]  # fmt: skip
