"""Charts are well-formed SVG with a title, every mark inside, no label over another, and nothing that acts."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.report.page.charts import HEIGHT, PLOT, Point, histogram, place_labels, scatter
from q3edge.report.page.grids import heat_grid
from q3edge.report.page.strips import LEVELS, PARTS, cells_of, heat_strip, level
from q3edge.report.page.svg import WIDTH

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script>\u202e\x00&\"'"

points = st.lists(
    st.builds(
        Point,
        label=st.text(min_size=1, max_size=30),
        x=st.floats(1, 5000),
        y=st.floats(0.001, 100),
        low=st.none(),
        high=st.none(),
        shape=st.sampled_from(["artifact", "baseline", "reference"]),
        emphasis=st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def drawn(found: list[Point], **changes: object) -> str:
    texts = {"title": "T", "description": "D", "x_label": "size", "y_label": "loss", "key": "k"}
    return scatter(found, **{**texts, **changes})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(points, st.booleans())
def test_marks_are_inside_and_labels_overlap_nothing(found: list[Point], log_y: bool) -> None:
    root = parsed(drawn(found, log_y=log_y, front=list(range(len(found)))))
    for circle in root.iter(f"{SVG}circle"):
        assert PLOT.left <= float(circle.attrib["cx"]) <= PLOT.right
        assert PLOT.top <= float(circle.attrib["cy"]) <= PLOT.bottom
    spots = [(100.0 + 10 * i, 100.0) for i in range(len(found))]
    labels = [label for label in place_labels(found, spots, [None] * len(found)) if label]
    for number, label in enumerate(labels):
        assert PLOT.holds(label.box)
        assert not any(label.box.overlaps(other.box) for other in labels[:number])
        assert not any(label.box.left < x < label.box.right and label.box.top < y < label.box.bottom for x, y in spots)


def test_labels_that_find_no_place_are_counted() -> None:
    crowd = [Point(f"variant number {i}", 1.0, 1.0) for i in range(60)]
    texts = [text.text or "" for text in parsed(drawn(crowd)).iter(f"{SVG}text")]
    labelled = sum(text.startswith("variant") for text in texts)
    assert f"{60 - labelled} not labelled: see the table" in texts


def test_error_bars_span_the_interval() -> None:
    root = parsed(drawn([Point("a", 1, 50, 20, 80), Point("b", 2, 50, None, None)]))
    bars = [path for path in root.iter(f"{SVG}path") if path.attrib["class"] == "error"]
    assert len(bars) == 1


def test_a_chart_has_a_name_and_a_description_of_its_own() -> None:
    root = parsed(drawn([Point("a", 1, 1)], key="speed"))
    ids = root.attrib["aria-labelledby"].split()
    assert root.attrib["role"] == "img"
    assert [element.attrib["id"] for element in root if element.tag in (f"{SVG}title", f"{SVG}desc")] == ids
    assert root.attrib["viewBox"] == f"0 0 {WIDTH} {HEIGHT}"


def test_hostile_labels_stay_text() -> None:
    for svg in (
        drawn([Point(HOSTILE, 1, 1)], title=HOSTILE, description=HOSTILE, x_label=HOSTILE),
        histogram([0, 1], [3], key="h", title=HOSTILE, description=HOSTILE, x_label=HOSTILE),
        heat_strip({(0, "q_proj"): 1.0}, low=1, high=2, key="s", title=HOSTILE, description=HOSTILE),
    ):
        assert "<script" not in svg
        assert "\u202e" not in svg
        assert "\x00" not in svg
        parsed(svg)


def test_a_histogram_draws_every_bin_by_its_share() -> None:
    root = parsed(histogram([0, 0.1, 1, 10], [1, 3, 0], key="h", title="T", description="D", x_label="KL"))
    heights = [float(bar.attrib["height"]) for bar in root.iter(f"{SVG}rect")]
    assert len(heights) == 3
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    assert heights[2] == 0
    assert "0.1 to 1: 3 of 4" in [title.text for bar in root.iter(f"{SVG}rect") for title in bar]


def test_an_empty_histogram_is_drawn() -> None:
    parsed(histogram([0, 1, 2], [0, 0], key="h", title="T", description="D", x_label="KL"))


@given(st.integers(1, 130), st.floats(1e-6, 1))
def test_a_strip_has_a_cell_for_every_matrix(layers: int, value: float) -> None:
    cells = {(layer, part): value * (1 + layer) for layer in range(layers) for part in PARTS}
    svg = heat_strip(cells, low=value, high=value * layers, key="s", title="T", description="D")
    parsed(svg)
    assert svg.count("M") == layers * len(PARTS)
    assert len(svg) < 40_000


def test_levels_rise_with_the_logarithm() -> None:
    assert [level(10.0**power, 1e-4, 1) for power in (-5, -4, -3, -2, -1, 0, 1)] == [0, 0, 2, 4, 6, 7, 7]
    assert level(1, 1, 1) == 0
    assert max(level(x / 100, 0.01, 1) for x in range(1, 200)) == LEVELS - 1


def test_cells_are_matrices_of_layers_only() -> None:
    values = {"model.layers.3.mlp.up_proj.weight": 1.0, "model.embed_tokens.weight": 2.0, "model.layers.x": 3.0}
    assert cells_of(values) == {(3, "up_proj"): 1.0}


@pytest.mark.parametrize(("layers", "experts"), [(1, 2), (4, 24), (48, 128), (3, 300)])
def test_a_grid_has_a_cell_for_every_expert_of_every_layer(layers: int, experts: int) -> None:
    rows = {2 * layer: [float(layer * experts + expert) for expert in range(experts)] for layer in range(layers)}
    drawing = heat_grid(rows, low=1.0, high=layers * experts, key="g", title="T", description="D")
    root = parsed(drawing)
    (group,) = root.iter(f"{SVG}g")
    covered = set()
    for path in group:
        if path.attrib["class"] == "unseen":
            assert path.attrib["d"] == "M0 0.1l1 .8m-1 0l1-.8"
            covered.add((0, 0))
            continue
        number = int(path.attrib["class"].removeprefix("cell heat"))
        for line in path.attrib["d"].split("M")[1:]:
            start, rest = line.split(" ")
            row, length = rest.split(".5h")
            for column in range(int(start), int(start) + max(1, round(float(length)))):
                assert (column, int(row)) not in covered
                covered.add((column, int(row)))
                assert level(rows[2 * int(row)][column], 1.0, layers * experts) == number
    assert len(covered) == layers * experts
    numbers = [int(text.text or "") for text in root.iter(f"{SVG}text") if (text.text or "").isdigit()]
    assert {0, 2 * (layers - 1)} <= {*numbers} or layers > 12
    assert len(drawing) < 12 * layers * experts + 4000
