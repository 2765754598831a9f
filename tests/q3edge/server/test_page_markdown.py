"""Markdown as the page shows it: made into elements of its own, whatever it holds. Needs Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.helpers.browser import CHROMIUM, Page, opened_browser
from tests.helpers.server import RunningServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]

SHOW = """async (texts) => {
  const { MarkdownView } = await import("/page/markdown.js");
  const element = document.createElement("div");
  const view = new MarkdownView(element);
  for (const text of texts) view.show(text);
  return element;
}"""


@pytest.fixture(scope="module")
def page(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as page:
        page.open(server.address)
        yield page


def shown(page: Page, *texts: str, ask: str = "innerHTML") -> str:
    """HTML of an element that has shown some texts, one after the other."""
    return str(page.value(f"({SHOW})({json.dumps(texts)}).then((element) => element.{ask})"))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo\n\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("**a** *b* ~~c~~ `d`", "<p><strong>a</strong> <em>b</em> <del>c</del> <code>d</code></p>"),
        ("__a__ _b_", "<p><strong>a</strong> <em>b</em></p>"),
        ("**a *b* c** ***d***", "<p><strong>a <em>b</em> c</strong> <strong><em>d</em></strong></p>"),
        ("2 * 3 * 4, a_b_c, 5 ** 6, **open, `open", "<p>2 * 3 * 4, a_b_c, 5 ** 6, **open, `open</p>"),
        (r"\*a\* \_ \\ \q", r"<p>*a* _ \ \q</p>"),
        ("`` a ` b `` `**c**`", "<p><code>a ` b</code> <code>**c**</code></p>"),
        ("# A\n## B #\n####### C", "<h3>A</h3><h4>B</h4><p>####### C</p>"),
        ("a\n***\nb\n- - -", "<p>a</p><hr><p>b</p><hr>"),
        ("- a\n  - b\n- c\n\nd", "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ul><p>d</p>"),
        ("3. a\n\n   more\n4. b", '<ol start="3"><li><p>a</p><p>more</p></li><li><p>b</p></li></ol>'),
        ("- a\n\n- b\n1. c", '<ul><li><p>a</p></li><li><p>b</p></li></ul><ol start="1"><li><p>c</p></li></ol>'),
        ("> a\n> > b\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
        ("a | b\nno table", "<p>a | b\nno table</p>"),
        ("x < y && z > 0 &amp; <b>", "<p>x &lt; y &amp;&amp; z &gt; 0 &amp;amp; &lt;b&gt;</p>"),
    ],
)  # fmt: skip
def test_texts_become_elements(page: Page, text: str, html: str) -> None:
    assert shown(page, text) == html


def test_code_keeps_its_lines_and_its_signs(page: Page) -> None:
    text = "1. do\n   ```py\n   a = '<b>' # **x**\n\n     b\n   ```\n2. done\n\n~~~~\n~~~\n```\n~~~~\n```\nopen"
    codes = "querySelectorAll('pre > code')"
    found = page.value(
        f"({SHOW})({json.dumps([text])}).then((element) => [...element.{codes}].map((code) => code.textContent))"
    )
    assert found == ["a = '<b>' # **x**\n\n  b", "~~~\n```", "open"]
    assert shown(page, text, ask="querySelector('ol').children.length") == "2"


def test_a_table_has_the_cells_of_its_head(page: Page) -> None:
    text = "| a | `b` |\n|:--|--:|\n| 1 | x \\| y | more |\n| 2 |\n\nend"
    rows = "querySelectorAll('tr')"
    found = page.value(
        f"({SHOW})({json.dumps([text])}).then((element) => [...element.{rows}].map((row) =>"
        "[...row.children].map((cell) => [cell.tagName, cell.textContent, cell.style.textAlign])))"
    )
    assert found == [
        [["TH", "a", "start"], ["TH", "b", "end"]],
        [["TD", "1", "start"], ["TD", "x | y", "end"]],
        [["TD", "2", "start"], ["TD", "", "end"]],
    ]
    assert shown(page, text, ask="lastElementChild.outerHTML") == "<p>end</p>"


def test_links_say_where_they_lead_and_lead_to_the_web_alone(page: Page) -> None:
    link = '<a href="{0}" target="_blank" rel="noopener noreferrer">{1}</a>'
    assert shown(page, "[my bank](https://evil.example/x)") == (
        f"<p><span>{link.format('https://evil.example/x', 'my bank')}<small> (evil.example)</small></span></p>"
    )
    assert shown(page, "see https://a.example/b_c_d.") == f"<p>see {link.format(*['https://a.example/b_c_d'] * 2)}.</p>"
    assert shown(page, "![cat](https://a.example/cat.png)") == (
        f"<p><span>{link.format('https://a.example/cat.png', 'cat')}<small> (a.example)</small></span></p>"
    )
    for text in ("[a](javascript:alert(1))", "[a](data:text/html,x)", "[a](//a.example)", "[a](https://[)", "<https:>"):
        assert shown(page, text, ask="querySelectorAll('a').length") == "0"
        assert shown(page, text, ask="textContent") == text


def test_what_comes_in_pieces_ends_as_what_comes_at_once(page: Page) -> None:
    text = "# A\n\n**b\na** `code`\n\n- a\n  1. b\n- c\n\n```py\nx = 1\n```\n> q\n\n| a | b |\n|--|--|\n| 1 | 2 |"
    assert shown(page, *(text[:end] for end in range(len(text) + 1))) == shown(page, text)


def test_blocks_that_are_finished_stay_as_they_are(page: Page) -> None:
    stays = """async () => {
      const { MarkdownView } = await import("/page/markdown.js");
      const element = document.createElement("div");
      const view = new MarkdownView(element);
      view.show("one\\n\\ntwo");
      const [first, second] = element.children;
      view.show("one\\n\\ntwo and more\\n\\nthree");
      return [element.children[0] === first, element.children[1] === second, element.children.length];
    }"""
    assert page.value(f"({stays})()") == [True, False, 3]


@pytest.mark.parametrize(
    "unit",
    ["> ", "- ", "*a ", "**a ", "_a ", "`", "` `` ", "[", "![a](", "|", "| - ", "https://", "\\", "1. \n", "# ", "*\n",
     "~~~", "<b>", "-\t", " ", "\n", "[a](https://a.example ", "**a*b", "- a\n", "a\n", "> a\n\n", "```\n",
     "| a | b |\n|--|--|\n"],
)  # fmt: skip
def test_no_text_takes_long_or_goes_too_deep(page: Page, unit: str) -> None:
    """A limit on time would depend on the machine; what is quadratic, or deep, does not end here at all."""
    text = unit * (100_000 // len(unit))
    assert int(shown(page, text, f"{text}x", ask="textContent.length")) <= len(text) + 1
