"""Draw docs/accuracy.svg, the chart of README, from a table of docs/benchmarks.md, where its figures are written down.

python -m tools.readme_figures
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from q3edge.report.page.charts import Point, Shape, scatter

COMMAND = "python -m tools.readme_figures"
DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLE, CHART = DOCS / "benchmarks.md", DOCS / "accuracy.svg"
OURS = "q3edge"
_ROW = re.compile(r"\| ([^|]+) \| ([^|]+) \| ([\d.]+) \| ([\d.]+)(?: \[([\d.]+), ([\d.]+)\])? \|")
_SIZE = 'width="840" height="600"'  # in a page that does not scale it


def rows(text: str) -> list[Point]:
    """Points of the table below the comment that names this program: MB on disk, mean KL in nats with its interval."""
    lines = text.partition(f"{COMMAND} -->\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    found = [_ROW.fullmatch(line) for line in lines]
    if not found or None in found:
        raise SystemExit(f"{TABLE}: a row of the chart's table is not tool, variant, MB, KL [low, high]")
    return [_point(row) for row in found if row]


def chart(points: list[Point]) -> str:
    """Draw the points as one SVG file that brings its style, light and dark, and its background."""
    body = scatter(
        points,
        key="accuracy",
        title="Mean KL to the float model over size on disk",
        description=" ".join(f"{p.label}: {p.x:g} MB, {p.y:g} nats." for p in points),
        x_label="size on disk (MB)",
        y_label="mean KL to float (nats, logarithmic)",
        log_y=True,
    )
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {_SIZE} '
    background = '<rect class="page" width="100%" height="100%"/>'
    return body.replace("<svg ", frame, 1).replace(">", f"><style>{_style()}</style>{background}", 1) + "\n"


def _point(row: re.Match[str]) -> Point:
    tool, variant, size, kl, low, high = row.groups()
    target = re.sub(r"--target-size \S+ ?", "", variant.replace("`", ""))  # the size is the other axis
    name = re.split(r",| \(", target)[0].removeprefix("--")
    label = name or "mixed" if tool == OURS else f"{tool} {name}"
    bounds = (float(low), float(high)) if low else (None, None)
    shape: Shape = "artifact" if tool == OURS else "baseline"
    return Point(label, float(size), float(kl), bounds[0], bounds[1], shape)


def _style() -> str:
    """Colours and strokes of the report's page, which its charts are made for."""
    css = (files("q3edge.report.page") / "templates" / "report.css").read_text(encoding="utf-8")
    colours = css.partition("* {")[0]
    marks = "\n".join(line for line in css.splitlines() if line.startswith("svg "))
    return f"{colours}{marks}\nsvg .page {{ fill: var(--page); }}\n"


def main() -> None:
    """Write the chart."""
    CHART.write_text(chart(rows(TABLE.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
