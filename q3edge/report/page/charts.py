"""Charts as SVG: pure functions from numbers to a string that stands inside an HTML page.

Colours and strokes are CSS classes of the page, so that one chart serves light and dark. Shapes tell kinds apart, not
colours. Labels never overlap: one without a free place is left out, and the chart says how many were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from q3edge.report.page.axes import Axis, fitting_axis, linear_axis, log_axis, tick_text
from q3edge.report.page.svg import WIDTH, shown, svg, text
from q3edge.report.plain_text import visible

Spot = tuple[float, float]  # x, y in the viewBox
Shape = Literal["artifact", "baseline", "reference"]

HEIGHT = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 28, 46  # margins around the plot; units of the viewBox everywhere here
_CHARACTER, _LINE = 7.2, 14.0  # size of a label's character at 12 units
_MARKER, _RING = 5.0, 10.0  # from the middle
_ANGLES = (0, 180, 270, 90, 315, 45, 225, 135, 338, 22, 202, 158, 292, 68, 248, 112)  # degrees, the best first
_BESIDE = 16.0  # a label this near to a mark seems to be its
_LONGEST_LABEL = 22  # characters
DASHES = ("solid", "dashed", "dotted", "dash-dotted")  # lines of series, in turn; in the style sheet by number
_BARS_WIDTH, _BARS_HEIGHT = 320, 190  # of a histogram: several stand in a row


class Box(NamedTuple):
    """A rectangle by its corners."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Tell whether the two share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Tell whether `other` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One mark of a scatter chart; low and high bound its error bar, None where there is none."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    shape: Shape = "artifact"
    emphasis: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A placed label: its text and box, and whether a line leads from the point to it."""

    text: str
    box: Box
    leader: bool


PLOT = Box(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)


def scatter(
    points: Sequence[Point],
    *,
    key: str,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    front: Sequence[int] = (),
    series: Sequence[Sequence[int]] = (),
    log_y: bool = False,
    from_zero: bool = False,
    limit: float | None = None,
) -> str:
    """Draw points with error bars; `front` lists those a line joins, in its order. `key` makes ids unique on the page.

    series: lists of points that a thinner line each joins, dashed in a way of its own.

    limit: a value of y that gets a line across, with its name.

    x is logarithmic where sizes differ a lot; log_y leaves out points that are not positive, which the caller says.
    """
    drawn = [point for point in points if not log_y or point.y > 0]
    x_axis = fitting_axis(point.x for point in drawn)
    heights = [v for p in drawn for v in (p.y, p.low, p.high) if v is not None]
    heights += [limit] if limit is not None else []
    y_axis = log_axis(heights) if log_y else linear_axis(heights, from_zero=from_zero)
    spots = [_place(point, x_axis, y_axis) for point in drawn]
    taken = [_bar_box(p, spot, y_axis) for p, spot in zip(drawn, spots)]
    labels = place_labels(drawn, spots, [*taken, None if limit is None else _limit_name(limit, y_axis)])

    def joined(members: Sequence[int], kind: str) -> str:
        line = [spots[drawn.index(points[i])] for i in members if points[i] in drawn]
        return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}"/>' if line else ""

    body = [
        *_grid(x_axis, y_axis),
        *(_limit(limit, y_axis) if limit is not None else ()),
        joined(front, "front"),
        *(joined(members, f"series dash{number % len(DASHES)}") for number, members in enumerate(series)),
        *(_bar(point, spot, y_axis) for point, spot in zip(drawn, spots)),
        *(_marker(point, spot) for point, spot in zip(drawn, spots)),
        *(_label(label, point, spot) for label, point, spot in zip(labels, drawn, spots) if label),
        text(WIDTH - _RIGHT, HEIGHT - 8, x_label, "axis", "end"),
        text(4, 14, y_label, "axis"),
    ]
    if left_out := labels.count(None):
        body.append(text(WIDTH - _RIGHT, 14, f"{left_out} not labelled: see the table", "axis", "end"))
    return svg(key, title, description, HEIGHT, body)


def histogram(
    edges: Sequence[float], counts: Sequence[int], *, key: str, title: str, description: str, x_label: str
) -> str:
    """Draw bars of equal width, one per bin, as high as its share of all counts, with the edges below them."""
    total = sum(counts) or 1
    axis = linear_axis([0, *(100 * count / total for count in counts)], count=4, from_zero=True)
    right = _BARS_WIDTH - _RIGHT
    bottom, width = _BARS_HEIGHT - _BOTTOM, (right - PLOT.left) / len(counts)
    body = []
    for tick in axis.ticks:
        y = bottom - axis.position(tick) * (bottom - _TOP)
        body.append(f'<path class="grid" d="M{PLOT.left} {y:.1f}H{right}"/>')
        body.append(text(PLOT.left - 6, y + 4, f"{tick_text(tick)} %", "tick", "end"))
    for i, count in enumerate(counts):
        height = axis.position(100 * count / total) * (bottom - _TOP)
        label = f"{tick_text(edges[i])} to {tick_text(edges[i + 1])}: {count} of {total}"
        body.append(
            f'<rect class="bar" x="{PLOT.left + i * width + 0.5:.1f}" y="{bottom - height:.1f}" '
            f'width="{width - 1:.1f}" height="{height:.1f}"><title>{shown(label)}</title></rect>'
        )
    body += [
        text(PLOT.left + i * width, bottom + 16, tick_text(edges[i]), "tick", "middle")
        for i in _labelled_edges(edges, width)
    ]
    body.append(text(right, _BARS_HEIGHT - 8, x_label, "axis", "end"))
    body.append(text(4, 14, "share of tokens", "axis"))
    return svg(key, title, description, _BARS_HEIGHT, body, _BARS_WIDTH)


def _labelled_edges(edges: Sequence[float], width: float) -> list[int]:
    """Indices of edges with room for their text; the roundest first, as 0.01 is rounder than 0.0316."""
    chosen: list[int] = []
    for i in sorted(range(len(edges)), key=lambda i: (_digits(edges[i]), i)):
        room = [(len(tick_text(edges[i])) + len(tick_text(edges[j]))) / 2 * _CHARACTER + 6 for j in chosen]
        if all(abs(i - j) * width >= needed for j, needed in zip(chosen, room)):
            chosen.append(i)
    return sorted(chosen)


def _digits(value: float) -> int:
    """Number of digits a value needs: 0 none, 0.01 one, 0.0316 three."""
    return len(f"{value:.2e}".partition("e")[0].rstrip("0."))


def place_labels(points: Sequence[Point], spots: Sequence[Spot], bars: Sequence[Box | None]) -> list[Label | None]:
    """Place each point's label where it overlaps no mark, error bar or other label; None where no place is free.

    Emphasised points choose first, then those at the left. Nearer places are tried before farther ones. A place right
    beside another point, and nearer to that, does not count: the label would seem to be the other's.
    """
    sizes = [_RING if point.emphasis else _MARKER for point in points]
    taken = [Box(x - size, y - size, x + size, y + size) for (x, y), size in zip(spots, sizes)]
    taken += [bar for bar in bars if bar is not None]
    labels: list[Label | None] = [None] * len(points)
    for i in sorted(range(len(points)), key=lambda i: (not points[i].emphasis, spots[i])):
        name = visible(points[i].label, _LONGEST_LABEL)
        places = list(_places(*spots[i], len(name) * _CHARACTER, sizes[i]))
        free = [place for place in places if PLOT.holds(place[0]) and not any(map(place[0].overlaps, taken))]
        clear = [p for p in free if not any(_misleads(p[0], spots[i], s) for s in spots if s != spots[i])]
        if points[i].emphasis:
            clear += free  # the recommended variant gets its label even there
        if clear:
            box, leader = clear[0]
            labels[i] = Label(name, box, leader)
            taken.append(box)
    return labels


def _places(x: float, y: float, width: float, size: float) -> Iterator[tuple[Box, bool]]:
    """Boxes around a mark of this size, near ones first, and whether they are so far that a line has to lead there."""
    for gap in (3.0, 12.0, 22.0, 34.0, 48.0, 64.0, 82.0):
        for angle in _ANGLES:
            across, down = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            middle = x + across * (size + gap + width / 2), y + down * (size + gap + _LINE / 2)
            box = Box(middle[0] - width / 2, middle[1] - _LINE / 2, middle[0] + width / 2, middle[1] + _LINE / 2)
            yield box, gap > 3


def _misleads(box: Box, own: Spot, other: Spot) -> bool:
    """Tell whether a label in `box` seems to be the other point's, or its leader passes through that."""
    if _distance(box, other) < min(_distance(box, own), _BESIDE):
        return True
    end = _nearest(box, own)
    across, down = end[0] - own[0], end[1] - own[1]
    along = ((other[0] - own[0]) * across + (other[1] - own[1]) * down) / max(across**2 + down**2, 1e-9)
    share = min(max(along, 0.0), 1.0)
    return math.dist(other, (own[0] + share * across, own[1] + share * down)) < _MARKER and along > 0


def _nearest(box: Box, spot: Spot) -> Spot:
    """The point of a box nearest to a spot."""
    return min(max(spot[0], box.left), box.right), min(max(spot[1], box.top), box.bottom)


def _distance(box: Box, spot: Spot) -> float:
    """Distance from a spot to the nearest point of a box."""
    return math.dist(spot, _nearest(box, spot))


def _place(point: Point, x_axis: Axis, y_axis: Axis) -> Spot:
    return _across(x_axis.position(point.x)), _down(y_axis.position(point.y))


def _across(share: float) -> float:
    return PLOT.left + share * (PLOT.right - PLOT.left)


def _down(share: float) -> float:
    return PLOT.bottom - share * (PLOT.bottom - PLOT.top)


def _bar_box(point: Point, spot: Spot, y_axis: Axis) -> Box | None:
    if point.low is None or point.high is None:
        return None
    return Box(spot[0] - 3, _down(y_axis.position(point.high)), spot[0] + 3, _down(y_axis.position(point.low)))


def _bar(point: Point, spot: Spot, y_axis: Axis) -> str:
    box = _bar_box(point, spot, y_axis)
    if box is None:
        return ""
    x = spot[0]
    path = f"M{x - 3:.1f} {box.top:.1f}h6M{x:.1f} {box.top:.1f}V{box.bottom:.1f}M{x - 3:.1f} {box.bottom:.1f}h6"
    return f'<path class="error" d="{path}"/>'


def _marker(point: Point, spot: Spot) -> str:
    """A disc for an artifact, a square for a baseline, a diamond for the reference; a ring for emphasis."""
    (x, y), size = spot, _MARKER
    shape = {
        "artifact": f'<circle class="artifact" cx="{x:.1f}" cy="{y:.1f}" r="{size}">',
        "baseline": f'<rect class="baseline" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">',
        "reference": f'<path class="reference" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z">',
    }[point.shape]
    element = shape[1:].partition(" ")[0]
    title = f"<title>{shown(point.label)}: {tick_text(point.x)}, {tick_text(point.y)}</title>"
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{_RING - 1}"/>' if point.emphasis else ""
    return f"{ring}{shape}{title}</{element}>"


def _label(label: Label, point: Point, spot: Spot) -> str:
    box = label.box
    leader = ""
    if label.leader:
        x, y = _nearest(box, spot)
        leader = f'<path class="leader" d="M{spot[0]:.1f} {spot[1]:.1f}L{x:.1f} {y:.1f}"/>'
    kind = "label strong" if point.emphasis else "label"
    return leader + text(box.left, box.bottom - 3.5, label.text, kind)


def _limit(limit: float, y_axis: Axis) -> Iterator[str]:
    box = _limit_name(limit, y_axis)
    yield f'<path class="limit" d="M{PLOT.left} {_down(y_axis.position(limit)):.1f}H{PLOT.right}"/>'
    yield text(box.right, box.bottom - 3, _limit_text(limit), "tick", "end")


def _limit_name(limit: float, y_axis: Axis) -> Box:
    """Box of the limit's name: at the right end of its line, below it where there is room."""
    y, right = _down(y_axis.position(limit)), PLOT.right - 4
    top = y + 1 if y + _LINE + 3 < PLOT.bottom else y - _LINE - 2
    return Box(right - len(_limit_text(limit)) * _CHARACTER, top, right, top + _LINE)


def _limit_text(limit: float) -> str:
    return f"limit {tick_text(limit)}"


def _grid(x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    for tick in x_axis.ticks:
        x = _across(x_axis.position(tick))
        yield f'<path class="grid" d="M{x:.1f} {PLOT.top}V{PLOT.bottom}"/>'
        yield text(x, PLOT.bottom + 16, tick_text(tick), "tick", "middle")
    for tick in y_axis.ticks:
        y = _down(y_axis.position(tick))
        yield f'<path class="grid" d="M{PLOT.left} {y:.1f}H{PLOT.right}"/>'
        yield text(PLOT.left - 6, y + 4, tick_text(tick), "tick", "end")
    yield f'<path class="frame" d="M{PLOT.left} {PLOT.top}V{PLOT.bottom}H{PLOT.right}"/>'
