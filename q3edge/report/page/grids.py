"""A heat map: one cell for each expert of each layer, layers from top to bottom. Numbers in, SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from q3edge.report.page.strips import LEVELS, level, numbered
from q3edge.report.page.svg import WIDTH, svg, text

_LEFT, _TOP, _FOOT = 34, 4, 34
_WIDEST, _HIGHEST, _LOWEST = 16.0, 16.0, 6.0
_TALL = 240.0  # the height that many layers share
_NARROW = 5.0  # cells have no gap between them below that

Rows = Mapping[int, Sequence[float]]  # layer -> a value for each expert


def heat_grid(rows: Rows, *, low: float, high: float, key: str, title: str, description: str) -> str:
    """Draw rows of cells from faint (`low`, positive) to strong (`high`), by the logarithm; a cross where it is zero.

    All cells of one level are one path, and neighbours of one level one line of it: 6000 cells take 50 kilobytes.
    """
    layers, columns = sorted(rows), max(map(len, rows.values()))
    width = min(_WIDEST, (WIDTH - _LEFT - 4) / columns)
    height = min(_HIGHEST, max(_LOWEST, _TALL / len(layers)))
    paths: list[list[str]] = [[] for _ in range(LEVELS)]
    crosses: list[str] = []
    for y, layer in enumerate(layers):
        values = rows[layer]
        levels = [level(value, low, high) if value else None for value in values]
        start = 0
        for x in range(1, len(levels) + 1):
            if x < len(levels) and levels[x] == levels[start] and width < _NARROW:
                continue
            found = levels[start]
            if found is None:
                crosses += [f"M{left} {y}.1l1 .8m-1 0l1-.8" for left in range(start, x)]
            else:
                paths[found].append(f"M{start} {y}.5h{x - start - (0 if width < _NARROW else 0.1):g}")
            start = x
    cells = "".join(
        f'<path class="cell heat{number}" stroke-width=".9" d="{"".join(found)}"/>'
        for number, found in enumerate(paths)
        if found
    )
    if crosses:
        cells += f'<path class="unseen" d="{"".join(crosses)}"/>'
    body = [f'<g transform="translate({_LEFT} {_TOP}) scale({width:.4g} {height:.4g})">{cells}</g>']
    body += [
        text(_LEFT - 6, _TOP + (y + 0.5) * height + 4, str(layers[y]), "tick", "end") for y in numbered(len(layers))
    ]
    bottom = _TOP + len(layers) * height
    body += [text(_LEFT + (x + 0.5) * width, bottom + 13, str(x), "tick", "middle") for x in numbered(columns)]
    body.append(text(_LEFT, bottom + 29, "expert (across), layer (down)", "axis"))
    return svg(key, title, description, bottom + _FOOT, body)
