"""The page: the JSON's numbers and no others, one file without script or network, and nothing hostile in it acts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from q3edge.artifact import Notice
from q3edge.cli.tables.report import report_table
from q3edge.evaluation.scorecard.scorecard import Behaviour, Example, LostAnswer
from q3edge.report.content import Failure, Report
from q3edge.report.gates import Gates
from q3edge.report.markdown import render_markdown
from q3edge.report.numbers import STYLES
from q3edge.report.page.page import MAX_BYTES, render_page
from q3edge.report.plain_text import visible
from tests.helpers.reports import estimate, make_report, mixed, scorecard, usual_variants, variant

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202e\u2066reversed\u2069",
    "null\x00 bell\x07 escape\x1b[31m",
    "\ud800 lone surrogate",
    "&lt;b&gt; \" ' javascript:alert(1)",
]


class Page(HTMLParser):
    """Elements with their attributes, text by element, and whether every element that was opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "data":
            self.numbers.append((dict(attrs)["value"] or "", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "data":
            self.numbers[-1] = (self.numbers[-1][0], data)


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def read(report: Report) -> tuple[Page, Any]:
    return Page(render_page(report)), json.loads(json.dumps(report.to_json(), allow_nan=False))


def test_every_number_of_the_page_is_one_of_the_json() -> None:
    page, raw = read(make_report())
    known = {repr(number) for number in leaves(raw)}
    assert len(page.numbers) > 300
    for value, text in page.numbers:
        assert value in known
        assert text in {write(float(value)) for write in STYLES.values()}


def test_the_numbers_that_matter_are_on_the_page() -> None:
    page, raw = read(make_report())
    shown = {value for value, _ in page.numbers}
    for entry in raw["variants"]:
        card = entry["scorecard"]
        for found in (card["recovery"], card["overall"]["mean_kl"], card["overall"]["top1_agreement"]):
            assert {repr(found[part]) for part in ("value", "low", "high")} <= shown
        for area in card["areas"].values():
            assert {repr(area["recovery"]["value"]), repr(area["recovery"]["low"])} <= shown
        assert repr(entry["model_bytes"]) in shown
        assert repr(entry["share_of_reference"]) in shown
        assert repr(entry["speed"]["tokens_per_second"]["median"]) in shown
    assert raw["recommendation"]["sentence"] in "".join(page.text)


def test_the_markdown_has_the_numbers_of_the_page() -> None:
    report = make_report()
    page, _ = read(report)
    texts = {text for _, text in page.numbers}
    markdown = render_markdown(report)
    rows = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    assert len(rows) >= 2 * len(report.variants)
    for variant_ in report.variants:
        assert variant_.recovery is not None
        assert f"{variant_.recovery.value:.1f} [{variant_.recovery.low:.1f}, {variant_.recovery.high:.1f}]" in markdown
        assert f"{variant_.recovery.low:.1f}" in texts


def test_the_page_is_one_file_that_asks_nobody() -> None:
    page, _ = read(make_report())
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    csp = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert csp.startswith("default-src 'none'; style-src 'sha256-")
    html = render_page(make_report())
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html


def test_the_page_can_be_read_without_seeing_it() -> None:
    page, _ = read(make_report())
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == tags.count("main") == tags.count("header") == tags.count("footer") == 1
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))
    assert tags.count("table") == tags.count("caption")
    assert all(a.get("scope") in ("row", "col") for t, a in page.elements if t == "th")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert all(found in ids for found in (attributes.get("aria-labelledby") or "").split())
        if tag == "svg":
            assert attributes["role"] == "img"
    assert dict(page.elements)["html"]["lang"] == "en"


def test_u22_the_headline_says_folder_size_speed_and_how_to_run_it() -> None:
    text = "".join(read(make_report())[0].text)
    headline = text.partition("Recommendation")[2].partition("Rule:")[0]
    assert "Ship int4-g64: 362.0 MB, 30 % of the checkpoint's 1192.0 MB, recovery 98.1 %" in headline
    assert "Decodes 22.1 [21.2, 22.8] tokens/s here, with 2 threads." in headline
    assert "In the folder out/int4-g64; run it: q3edge run out/int4-g64 'Why is the sky blue?'" in headline


def test_u22_why_no_smaller_one_is_open_on_the_page_in_markdown_and_in_the_terminal() -> None:
    report = make_report()
    html = render_page(report)
    reasons = html.partition("<h3>Why no smaller one</h3>")[2].partition("</section>")[0]
    assert "<details" not in html.partition("<h3>Why no smaller one</h3>")[0]
    assert "recovery 96.8 %, at least 96.1 % with 95 % confidence, at least 97 % asked for" in reasons
    assert "Why no smaller one:\n\n- bpw-3.5: mean KL on the suites 0.14 nats" in render_markdown(report)
    terminal = report_table(report)
    assert "\nRun it: q3edge run out/int4-g64 'Why is the sky blue?'\n" in terminal
    assert "\nWhy no smaller one:\n  bpw-3.5: mean KL on the suites 0.14 nats" in terminal


def test_u22_the_limits_are_lines_in_the_charts_of_accuracy() -> None:
    html = render_page(make_report())
    assert html.count('class="limit"') == 2
    assert ">limit 97</text>" in html
    assert ">limit 0.05</text>" in html
    assert 'class="limit"' not in render_page(make_report(gates=Gates(None, None)))


def test_u22_where_all_values_are_alike_the_page_says_uniform() -> None:
    usual = variant("a", 300, 0.01, 99.0)
    alike = replace(usual, tensors=tuple(replace(fact, loss=0.5) for fact in usual.tensors))
    nearly = replace(usual, tensors=tuple(replace(fact, bits=8.52 + i / 1e4) for i, fact in enumerate(usual.tensors)))
    mixed = replace(usual, tensors=tuple(replace(fact, bits=4.0 + i) for i, fact in enumerate(usual.tensors)))
    pages = [render_page(make_report(found)) for found in (usual, alike, nearly, mixed)]
    assert ["Stored bits per weight: uniform" in page for page in pages] == [True, True, True, False]
    assert ["bits per weight by layer and matrix" in page for page in pages] == [False, False, False, True]
    assert ["Output error: uniform" in page for page in pages] == [False, True, False, False]
    assert ["output error by layer and matrix" in page for page in pages] == [True, False, True, True]
    assert '8.52</data> to <data value="8.5227">8.52</data>' not in pages[2]


def test_u22_the_contents_lead_to_every_section() -> None:
    page, _ = read(make_report())
    headings = [a["id"] for tag, a in page.elements if tag == "h2" and a["id"] != "advice"]
    links = [a["href"] for tag, a in page.elements if tag == "a" and a["href"] != "#main"]
    assert links == [f"#{heading}" for heading in headings]
    assert len(links) > 8


def test_u22_the_page_says_how_to_make_it_again() -> None:
    report = make_report()
    assert report.command in "".join(read(report)[0].text)


def test_u22_examples_have_bars_as_long_as_the_probability() -> None:
    example = Example("built-in", "english", "The capital is", 1.0, ((" Paris", 0.914),), ((" a", 0.04),), "", "")
    card = scorecard("x", 0.01, 99.0, worst=(example,))
    html = render_page(make_report(variant("x", 300, 0.01, 99.0, scorecard=card)))
    bars = html.partition("Where they differ most</h2>")[2]
    assert [width in bars for width in ('width="91.4" height="8"', 'width="4.0" height="8"')] == [True, True]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(text: str) -> None:
    example = Example(text, text, text, 1.0, ((text, 0.5),), ((text, 0.4),), text, text)
    card = replace(
        scorecard("x", 0.01, 99.0, worst=(example,)),
        suite_digests={text: text}, settings={text: text}, checks=(), reference=text,
    )  # fmt: skip
    hostile = variant(text, 300, 0.01, 99.0, scorecard=card, formats=text, method=text, missing=(text,))
    report = replace(make_report(hostile, failures=(Failure(text, text),)), machine={text: text}, versions={text: text})
    assert report.reference is not None
    report = replace(report, reference=replace(report.reference, name=text))
    html = render_page(report)
    html.encode("utf-8")
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not set(html) & {"\u202e", "\u2066", "\u2069", "\x00", "\x07", "\x1b", "\ud800"}
    assert visible(text) in "".join(page.text)
    assert "49" not in [t for t in page.text if "{{" in text]
    render_markdown(report).encode("utf-8")


def test_a_large_model_and_many_variants_stay_below_a_megabyte() -> None:
    many = [
        variant(f"variant-{i}", 4_000_000_000 + i, 0.01 + i / 100, 99 - i / 10, layers=64, seed=i) for i in range(16)
    ]
    html = render_page(make_report(*many))
    assert len(html.encode()) <= MAX_BYTES
    assert "with the largest error of 448; the JSON has all" in html


def test_experts_have_maps_words_and_a_table() -> None:
    one = mixed(variant("int4", 300_000_000, 0.02, 99.0), layers=4)
    fewer = replace(mixed(variant("int4-k2", 300_000_000, 0.2, 90.0, seed=1)), fewer_experts=(2, 4))
    report = make_report(one, fewer)
    page, raw = read(report)
    text = "".join(page.text)
    known = {repr(number) for number in leaves(raw)}
    assert all(value in known for value, _ in page.numbers)
    assert one.experts is not None
    for sentence in one.experts.words:
        assert sentence in text
        assert sentence in " ".join(raw["variants"][0]["experts"]["words"])
        assert sentence.replace("(", "\\(") in render_markdown(report)
    assert one.experts.words[1] == "1 of 64 experts saw no token of it: 3 of layer 1."
    assert one.experts.words[2] == (
        "95.5 % of the experts that its routers choose are those of the float model, in layer 3, where fewest are, "
        "94.0 %."
    )
    assert "Each token goes to 2 experts, in place of the 4 that the model was trained with." in " ".join(text.split())
    assert "Each token goes to 2 experts, in place of 4." in render_markdown(report)
    for caption in ("Tokens routed to each expert", "Output error of each expert"):
        assert len(re.findall(rf"{caption}, [^,]+ \(faint\) to [^,]+ \(strong\)(?!,)", text)) == 2
    assert "Stored bits per weight of each expert" not in text  # all are alike
    assert text.count("Experts of int4, layer by layer") == 1


def test_experts_of_large_models_leave_the_page_below_a_megabyte() -> None:
    many = [variant(f"v{i}", 4_000_000_000 + i, 0.01 + i / 100, 99 - i / 10, layers=48, seed=i) for i in range(8)]
    html = render_page(make_report(*(mixed(found, layers=48, experts=128) for found in many)))
    assert len(html.encode()) <= MAX_BYTES
    assert html.count("<figcaption>Tokens routed to each expert") == 2
    assert html.count("Its maps are left out") == 6


def test_what_is_not_there_leaves_no_empty_section() -> None:
    bare = variant(
        "bare", 300, 0.0, 100.0, scorecard=None, speed=None, tensors=(), notices=(), missing=("no reference",)
    )
    page, _ = read(replace(make_report(bare), reference=None))
    text = "".join(page.text)
    assert "no reference" in text
    for heading in (
        "By area",
        "Layer by layer",
        "Experts",
        "Where they differ most",
        "How far single tokens move",
        "Baselines",
    ):
        assert heading not in text


def test_generated_answers_show_how_they_were_written() -> None:
    behaviour = Behaviour(estimate(0.9), estimate(0.95), None, estimate(1.0), estimate(41.5))
    card = replace(
        scorecard("g", 0.01, 99.0), mode="generated", overall=None, histogram=None,
        reference_behaviour=behaviour, candidate_behaviour=behaviour, length_ratio=estimate(1.25),
        lost=(LostAnswer("maths", "item 7", "What is 1 + 1?", "2", "It is 2.", "It is 3."),),
        notices=(Notice("items-too-long", 2, "questions were left out"),),
    )  # fmt: skip
    page, _ = read(make_report(variant("g", 300, 0.01, 99.0, scorecard=card), gates=Gates(max_kl=None)))
    text = "".join(page.text)
    for part in (
        "How the answers are written",
        "41.5",
        "1.25",
        "1 answers lost",
        "It is 3.",
        "questions were left out",
    ):
        assert part in text


def test_failures_are_on_the_page_and_in_the_markdown() -> None:
    report = make_report(*usual_variants()[:2], failures=(Failure("nf4", "needs a package"),))
    for text in ("".join(Page(render_page(report)).text), render_markdown(report)):
        assert "needs a package" in text


def test_visible_writes_out_what_cannot_be_seen() -> None:
    assert visible("a\nb\tc") == "a↵b⇥c"
    assert visible("\u202eabc\u200b\x00") == "⟨U+202E⟩abc⟨U+200B⟩⟨U+0000⟩"
    assert visible("naïve 中文 العربية 😀") == "naïve 中文 العربية 😀"
    assert visible("abcdef", 4) == "abc…"


def test_the_verdict_in_words_stands_on_the_page_for_each_variant_and_first_for_the_one_to_ship() -> None:
    report = make_report(*usual_variants())
    best = report.recommended
    assert best is not None
    page = "".join(Page(render_page(report)).text)
    assert f"In words, {report.verdict(best)}." in page.partition("Accuracy and size")[0]
    below = " ".join(page.partition("Accuracy and size")[2].split())
    for found in report.variants:
        assert f"{found.name}: {report.verdict(found)}" in below


def test_questions_and_texts_stand_apart_where_both_were_read() -> None:
    report = make_report(*usual_variants())
    assert "Questions and texts" not in render_page(report)
    card = scorecard("int4", 0.02, 98.0)
    kinds = {"questions": card.areas["math"], "texts": card.areas["code"]}
    evaluated = variant("int4", 400_000_000, 0.02, 98.0)
    page = render_page(make_report(replace(evaluated, scorecard=replace(card, kinds=kinds))))
    section = page.partition('<section aria-labelledby="kinds">')[2].partition("</section>")[0]
    text = "".join(Page(section).text)
    assert "questions" in text
    for found in kinds.values():
        assert found.recovery is not None
        assert STYLES["percent"](found.recovery.value) in text
