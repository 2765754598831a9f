"""Areas: subjects of texts and questions, mixed in calibration, scored in suites and weighted in reports."""

from __future__ import annotations

from collections.abc import Mapping

# Percent of calibration's tokens, and of the recovery score: Qwen3's evaluation matrix (arXiv 2505.09388, its tables of
# benchmarks).
AREA_WEIGHTS: Mapping[str, int] = {"knowledge": 35, "math": 25, "code": 20, "multilingual": 15, "safety": 5}
AREAS = tuple(AREA_WEIGHTS)
_ALIASES = {"general": "knowledge"}  # as calibration files may call it


def area_named(name: object) -> str | None:
    """Look up the area of AREAS of this name or alias (general: knowledge); None for any other value."""
    found = _ALIASES.get(name, name) if isinstance(name, str) else None
    return found if found in AREAS else None
