"""A heat strip: one cell for each matrix of the layers, layers from left to right. Numbers in, SVG out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from q3edge.report.page.svg import WIDTH, svg, text

PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEVELS = 8  # of the colour; more cannot be told apart
_LEFT, _TOP, _ROW, _GAP = 74, 4, 16, 2
_WIDEST = 26.0
_FOOT = 34

Cells = Mapping[tuple[int, str], float]  # (layer, part) -> value


def cells_of(values: Mapping[str, float]) -> dict[tuple[int, str], float]:
    """Cells of values by full tensor name; tensors outside the layers are left out."""
    cells = {}
    for name, value in values.items():
        fields = name.split(".")
        if name.startswith("model.layers.") and len(fields) > 3 and fields[2].isdecimal():
            part = next((field for field in fields if field in PARTS), None)
            if part is not None:
                cells[int(fields[2]), part] = value
    return cells


def level(value: float, low: float, high: float) -> int:
    """Level of a value: 0 for `low` (positive) or less up to LEVELS - 1 for `high` or more, by the logarithm."""
    if value <= low or high <= low:
        return 0
    share = math.log(value / low) / math.log(high / low)
    return min(LEVELS - 1, int(share * LEVELS + 1e-9))


def heat_strip(cells: Cells, *, low: float, high: float, key: str, title: str, description: str) -> str:
    """Draw cells from faint (`low`, positive) to strong (`high`), by the logarithm; a cell that is missing stays empty.

    All cells of one level are one path, so that a model of 64 layers takes a few kilobytes.
    """
    layers = 1 + max(layer for layer, _ in cells)
    width = min(_WIDEST, (WIDTH - _LEFT - 4) / layers)
    paths: list[list[str]] = [[] for _ in range(LEVELS)]
    for (layer, part), value in sorted(cells.items()):
        x, y = _LEFT + layer * width, _TOP + PARTS.index(part) * _ROW
        gap = min(_GAP, width / 4)
        paths[level(value, low, high)].append(f"M{x:.1f} {y}h{width - gap:.1f}v{_ROW - _GAP}h-{width - gap:.1f}z")
    body = [f'<path class="heat heat{n}" d="{"".join(found)}"/>' for n, found in enumerate(paths) if found]
    for row, part in enumerate(PARTS):
        y = _TOP + row * _ROW + _ROW - 5
        body.append(text(_LEFT - 6, y, part.removesuffix("_proj"), "tick", "end"))
    bottom = _TOP + len(PARTS) * _ROW
    for layer in numbered(layers):
        x = _LEFT + layer * width + width / 2
        body.append(text(x, bottom + 11, str(layer), "tick", "middle"))
    body.append(text(_LEFT, bottom + 28, "layer", "axis"))
    return svg(key, title, description, bottom + _FOOT, body)


def numbered(count: int) -> Sequence[int]:
    """Layers, or other cells in a row, that get a number: at most about twelve round ones, and the last if it fits."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if count / step <= 12)
    numbers = [*range(0, count, step)]
    if count - 1 - numbers[-1] >= step / 2:
        numbers.append(count - 1)
    return numbers
