"""Which variant and thinking budget is advised, the test behind it, and the section of the page."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q3edge.cli.tables.report import report_table
from q3edge.cli.tables.scorecard import scorecard_table
from q3edge.evaluation.scorecard.scorecard import scorecard_from_json
from q3edge.evaluation.validation.results import CheckResult
from q3edge.report.content import Report, Variant
from q3edge.report.markdown import render_markdown
from q3edge.report.page.page import render_page
from q3edge.report.thinking import advise, mcnemar
from tests.helpers.reports import answering, make_report, variant

LARGE = {0: ("1" * 60 + "0" * 40, 0.2), 64: ("1" * 92 + "0" * 8, 1.1), None: ("1" * 95 + "0" * 5, 4.0)}
SMALL = {0: ("1" * 55 + "0" * 45, 0.1), 64: ("1" * 80 + "0" * 20, 0.6), None: ("1" * 90 + "0" * 10, 2.0)}


def two(**changes: object) -> list[Variant]:
    large, small = variant("large", 900, 0.001, 99.9), variant("small", 300, 0.02, 98.5, seed=1)
    return [answering(large, LARGE), answering(replace(small, **changes), SMALL)]  # type: ignore[arg-type]


@given(st.integers(0, 7), st.integers(0, 7))
def test_the_chance_is_that_of_fair_coins(lost: int, won: int) -> None:
    tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=lost + won)]
    assert mcnemar(lost, won) == sum(heads >= lost for heads in tosses) / len(tosses)


def test_the_fastest_that_is_not_significantly_worse_is_advised() -> None:
    advice = advise(two())
    assert advice is not None
    assert [(p.variant, p.budget, p.p) for p in advice.points] == [
        ("large", 0, 2.0**-35), ("large", 64, 2.0**-3), ("large", None, 1.0),
        ("small", 0, 2.0**-40), ("small", 64, 2.0**-15), ("small", None, 2.0**-5),
    ]  # fmt: skip
    assert (advice.variant, advice.budget) == ("large", 64)
    assert advice.sentence.startswith("Answer with large and a thinking budget of 64 tokens: 92.0 % right [")
    assert "The most accurate, large and no limit of thinking, has 3.0 points more [" in advice.sentence
    below = advice.points[1].below
    assert below is not None
    assert below.value == pytest.approx(0.03)
    assert below.low is not None
    assert 0 <= below.low < 0.03


def test_the_front_is_who_nobody_beats_in_both() -> None:
    advice = advise(two())
    assert advice is not None
    for point in advice.points:
        beaten = any(
            other.result.seconds.value < point.result.seconds.value
            and other.result.accuracy.value >= point.result.accuracy.value
            for other in advice.points
        )
        assert point.front is not beaten


def test_only_questions_that_both_answered_are_compared() -> None:
    large, small = two()
    assert small.scorecard is not None
    budgets = small.scorecard.thinking_budgets
    assert budgets is not None
    first = replace(budgets, questions=budgets.questions[:80])  # small knows all of these with a budget of 64
    advice = advise([large, replace(small, scorecard=replace(small.scorecard, thinking_budgets=first))])
    assert advice is not None
    assert (advice.variant, advice.budget) == ("small", 64)
    none = replace(budgets, questions=("other: 1",))
    advice = advise([large, replace(small, scorecard=replace(small.scorecard, thinking_budgets=none))])
    assert advice is not None
    assert [point.p for point in advice.points][3:] == [None, None, None]
    assert advice.variant == "large"


def test_what_looks_broken_is_not_advised() -> None:
    large, small = two()
    broken = []
    for found in (large, small):
        assert found.scorecard is not None
        failed = replace(found.scorecard, checks=(CheckResult("x", "fail", 1.0, 0.0, "dead"),))
        broken.append(replace(found, scorecard=failed))
    advice = advise([broken[0], small])
    assert advice is not None
    assert advice.variant == "small"
    advice = advise(broken)
    assert advice is not None
    assert (advice.variant, advice.sentence) == (None, "None of these: every variant looks broken.")
    assert "Thinking budget" in render_page(make_report(*broken))


def test_without_budgets_nothing_is_said() -> None:
    report = make_report()
    assert report.thinking is None
    assert "Thinking budget" not in render_page(report)
    assert "Thinking budget" not in render_markdown(report)


def _section(report: Report) -> str:
    return render_page(report).partition('<h2 id="thinking">')[2].partition("</section>")[0]


def test_the_page_has_every_point_and_one_line_for_each_variant() -> None:
    section = _section(make_report(*two()))
    svg = section[section.index("<svg") : section.index("</svg>") + 6]
    root = ElementTree.fromstring(svg)
    kinds = [element.attrib.get("class", "") for element in root.iter()]
    assert [kind for kind in kinds if kind.startswith("series")] == ["series dash0", "series dash1"]
    assert (kinds.count("artifact"), kinds.count("error"), kinds.count("ring"), kinds.count("front")) == (6, 6, 1, 1)
    labels = [element.text for element in root.iter("text") if element.attrib["class"].startswith("label")]
    assert {"large, 0", "small, 0", "large, 64"} <= set(labels)
    assert section.count("<tr") == 1 + 6
    assert section.count('<tr class="chosen">') == 1
    assert "large</bdi> solid, <bdi>small</bdi> dashed" in section
    numbers = set(re.findall(r'<data value="([^"]+)">', section))
    assert {"0.92", "1.1", repr(2.0**-15), "64", "640"} <= numbers
    assert numbers <= set(re.findall(r"[-\d.e]+", json.dumps(make_report(*two()).to_json())))


def test_the_command_runs_the_recommended_budget_everywhere() -> None:
    report = make_report(*two())
    command = "q3edge run out/large --think --thinking-budget 64 'Why is the sky blue?'"
    assert report.thinking_command == command
    for text in (_section(report).replace("&#39;", "'"), render_markdown(report), report_table(report)):
        assert command in text
    assert make_report(answering(variant("a", 300, 0.01, 99.0), {None: ("1" * 9, 1.0)})).thinking_command == (
        "q3edge run out/a --think 'Why is the sky blue?'"
    )


def test_budgets_survive_json_and_are_in_the_terminal() -> None:
    card = two()[0].scorecard
    assert card is not None
    assert scorecard_from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card
    text = " ".join(scorecard_table(card).split())
    assert "thinking budgets: 100 questions, each answered with thinking and by itself; Example CPU, 2 threads" in text
    assert "right (%) 0 64 no limit" in text
    assert "math 60 92 96 code 60 92 94" in text
    raw = json.loads(json.dumps(make_report(*two()).to_json(), allow_nan=False))["thinking"]
    assert (raw["variant"], raw["budget"], len(raw["points"])) == ("large", 64, 6)
