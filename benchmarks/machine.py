"""The machine that a figure was measured on: it goes with every row."""

from __future__ import annotations

from q3edge.machine.cpu import cpu_name, instruction_sets


def machine() -> dict[str, str]:
    """The CPU's name and those of its instruction sets that decide speed and rounding, for JSON."""
    return {"cpu": cpu_name(), "flags": " ".join(instruction_sets()) or "no vector instructions known here"}


def machine_line() -> str:
    """The same for people, above a table."""
    return "Measured on {cpu}: {flags}.".format_map(machine())
