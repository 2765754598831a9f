"""The page at `/` in a real browser, against real servers; answers of a certain kind are a stream of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.browser import CHROMIUM, Page, opened_browser
from tests.helpers.server import SLOW_PASSES, RunningServer, running_server

KEY = "secret-of-the-page"
QUESTION = "What is the capital of Japan?"
DONE = "document.querySelector('#messages > :last-child')?.ariaBusy === 'false'"
# In place of a server's answers: a stream that the test feeds.
FED = """
const asked = window.fetch;
window.fetch = (path, options) => path !== "v1/chat/completions" ? asked(path, options) : Promise.resolve(new Response(
  new ReadableStream({ start(controller) {
    const send = (text) => controller.enqueue(new TextEncoder().encode(`data: ${text}\\n\\n`));
    window.feed = (fields) => send(JSON.stringify(fields));
    window.tell = (delta) => feed({ choices: [{ delta, finish_reason: null }] });
    window.finish = (finish_reason, rest) => {
      feed({ choices: [{ delta: {}, finish_reason }], ...rest });
      send("[DONE]");
      controller.close();
    };
    window.breakOff = () => controller.error(new TypeError("network error"));
    options.signal.addEventListener("abort", () => controller.error(new DOMException("", "AbortError")));
  } })));
"""
# Has the server go on behind the end of an answer.
ENDLESS = """
const asked = window.fetch;
window.fetch = (path, { body, ...options }) => asked(path, body
  ? { ...options, body: JSON.stringify({ ...JSON.parse(body), ignore_eos: true, max_tokens: 900 }) } : options);
"""
HOSTILE = (
    '<img src=x onerror="hacked = 1"><script>hacked = 1</script><svg onload="hacked = 1"><b>bold</b> '
    '[click](javascript:hacked=1) <iframe src="https://evil.example"></iframe></div></li>'
)

in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """An empty tab, of which the console has to stay silent."""
    browser.renew()
    browser.emulate(width=1100)
    yield browser
    assert [each for each in browser.complaints if not browser.expected or browser.expected not in each] == []


@pytest.fixture(scope="module")
def slow(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Server of two models that take their time, which wants a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    names = ("--name", "one", "--name", "other", "--threads", "1")
    with running_server(artifact, artifact, *names, "--api-key-file", keys, first=SLOW_PASSES) as server:
        yield server


def opened(page: Page, server: RunningServer, *, key: bool = False, fed: bool = False) -> Page:
    """The page of a server, which knows the models."""
    if fed:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=FED)
    if key:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=f"sessionStorage['q3edge.key'] ??= '{KEY}'")
    page.open(f"{server.address}/")
    page.wait("document.getElementById('model').value")
    return page


def ask(page: Page, text: str = QUESTION) -> None:
    """Send a message by the keyboard."""
    before = page.value("document.querySelectorAll('#messages > li').length")
    page.value("document.getElementById('text').focus()")
    page.type(text)
    page.press("Enter")
    page.wait(f"document.querySelectorAll('#messages > li').length === {before + 2}")


def settled(page: Page, **settings: Any) -> None:
    """Fill in settings."""
    for name, value in settings.items():
        page.value(
            f"(() => {{ const field = document.getElementById('{name}'); field.value = {json.dumps(str(value))};"
            "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )


def text_of(page: Page, selector: str) -> str:
    """Text of an element as it is seen."""
    return str(page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


def test_the_files_come_with_a_policy_that_allows_nothing_foreign(client: httpx.Client) -> None:
    names = [file.name for file in (files("q3edge.server") / "page").iterdir()]
    assert {"index.html", "chat.js", "style.css"} < set(names)
    for path in ("/", *(f"/page/{name}" for name in names if name != "index.html")):
        answer = client.get(path).raise_for_status()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        hosts = re.findall(r"(?:https?:)?//[\w-]+\.\w+", answer.text.replace("http://www.w3.org/2000/svg", ""))
        assert hosts == [], path
    html = client.get("/").text
    assert "<style" not in html
    assert not re.search(r"<script>|\son\w+=|style=", html)
    assert client.get("/page/index.html").status_code == client.get("/page/../app.py").status_code == 404
    assert client.post("/").status_code == 405


class TestInBrowser:
    """What a reader sees."""

    pytestmark = in_browser

    def test_an_answer_comes_with_its_thinking_folded(self, page: Page, slow: RunningServer) -> None:
        opened(page, slow, key=True)
        settled(page, temperature=0)
        ask(page)
        page.wait("document.querySelector('.thinking.running[open] summary')?.innerText.startsWith('Thinking…')")
        page.wait("document.querySelector('.thinking.running .text').innerText")
        page.wait(DONE)
        with slow.client(headers={"authorization": f"Bearer {KEY}"}) as client:
            fields = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
            given = client.post("/v1/chat/completions", json=fields).json()
        message = given["choices"][0]["message"]
        assert text_of(page, ".answer .markdown") == message["content"] == "Tokyo"
        assert not page.value("document.querySelector('.thinking').open")
        assert text_of(page, ".thinking summary").startswith("Thought for ")
        assert page.value("document.querySelector('.thinking .text').textContent") == message["reasoning_content"]
        tokens = given["usage"]["completion_tokens"]
        assert re.fullmatch(rf"[\d.]+ tokens/s · {tokens} tokens · first after .+ s · one", text_of(page, ".stats"))
        assert {url for url in page.urls if not url.startswith(slow.address)} == set()
        page.click(".thinking summary")
        assert page.value("document.querySelector('.thinking').open")

    def test_stop_ends_it_on_the_server_too(self, page: Page, slow: RunningServer) -> None:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=ENDLESS)
        opened(page, slow, key=True)
        ask(page)
        page.wait("document.querySelector('.answer :is(.thinking, .markdown)').innerText")
        page.click("#stop")
        page.wait(DONE)
        assert text_of(page, ".notes") == "Stopped."
        assert slow.requests(outcome="cancelled")
        page.wait("!document.getElementById('send').hidden")
        ask(page)
        page.press("Escape")
        page.wait(DONE)
        assert page.value("[...document.querySelectorAll('.notes')].map((each) => each.innerText)") == ["Stopped."] * 2

    def test_settings_model_and_history_are_what_the_server_is_asked_with(
        self, page: Page, slow: RunningServer
    ) -> None:
        opened(page, slow, key=True)
        assert page.value("[...document.getElementById('model').options].map((each) => each.value)") == ["one", "other"]
        settled(page, temperature=0, top_p=0.5, top_k=3, max_tokens=200, thinking_budget=2, system="Be short.")
        ask(page)
        page.wait(DONE)
        first = {
            "model": "one", "temperature": 0,
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": QUESTION}],
            "top_p": 0.5, "top_k": 3, "max_tokens": 200, "thinking_budget": 2, "stream": True,
            "chat_template_kwargs": {"enable_thinking": True},
        }  # fmt: skip
        assert json.loads(page.posted[-1]) == first
        answer = text_of(page, ".answer .markdown")
        page.click("#thinking")
        settled(page, temperature="", top_p=7, top_k="", system="")  # one that the field itself refuses is not sent
        page.value("document.getElementById('model').value = 'other'")
        ask(page, "And of France?")
        page.wait(DONE)
        assert json.loads(page.posted[-1]) == {
            "model": "other", "max_tokens": 200, "stream": True, "chat_template_kwargs": {"enable_thinking": False},
            "messages": [
                {"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer},
                {"role": "user", "content": "And of France?"},
            ],
        }  # fmt: skip
        assert page.value("document.querySelectorAll('.thinking')[1].hidden")
        page.open(f"{slow.address}/")  # settings stay
        assert page.value("document.getElementById('max_tokens').value") == "200"
        assert not page.value("document.getElementById('thinking').checked")

    def test_a_key_is_asked_for_and_kept_in_the_tab_alone(self, page: Page, slow: RunningServer) -> None:
        page.expected = "401"
        page.open(f"{slow.address}/")
        for key in ("wrong-secret-of-the-page", KEY):
            page.wait("document.getElementById('key-dialog').open && document.activeElement.id === 'key'")
            page.type(key)
            page.press("Enter")
            if key != KEY:
                page.wait("document.getElementById('key-error').checkVisibility()")
        page.wait("document.getElementById('model').value")
        assert page.value("sessionStorage['q3edge.key']") == KEY
        assert "secret" not in page.value("JSON.stringify(localStorage) + document.cookie + document.body.innerHTML")
        assert "secret" not in "".join(slow.lines)
        ask(page)
        page.wait(DONE)
        assert not page.value("[...document.querySelectorAll('.problem')].some((each) => each.checkVisibility())")
        page.click("#open-settings")
        page.click("#forget-key")
        assert page.value("sessionStorage['q3edge.key']") is None

    def test_what_a_model_writes_stays_text(self, page: Page, server: RunningServer) -> None:
        page.expected = "TrustedHTML"  # at the end
        opened(page, server, fed=True)
        ask(page, HOSTILE)
        page.value(f"tell({{ reasoning_content: {json.dumps(HOSTILE)} }})")
        page.value(f"tell({{ content: {json.dumps(HOSTILE)} }})")
        page.value(f"finish('stop', {{ notices: [{{ detail: {json.dumps(HOSTILE)} }}] }})")
        page.wait(DONE)
        for selector in (".question .text", ".thinking .text", ".markdown", ".notes"):
            assert HOSTILE in page.value(f"document.querySelector('{selector}').textContent"), selector
        tags = page.value("[...new Set([...document.querySelectorAll('#messages *')].map((each) => each.localName))]")
        assert set(tags) == {"li", "div", "button", "details", "summary", "p", "span"} | ({"a", "small"} & set(tags))
        assert page.value("typeof hacked") == "undefined"
        page.open(f"{server.address}/")  # kept, and shown again
        page.wait(DONE)
        assert HOSTILE in page.value("document.querySelector('.markdown').textContent")
        assert page.value("typeof hacked") == "undefined"
        assert page.value("try { document.body.innerHTML = '<b>x</b>'; 'set' } catch { 'refused' }") == "refused"

    def test_failures_are_told_in_words_and_can_be_tried_again(self, page: Page, server: RunningServer) -> None:
        page.expected = "Failed to load resource"
        opened(page, server)
        settled(page, max_tokens=10**9)
        ask(page)
        page.wait(DONE)
        assert re.match(r"The server refused this: .*max_tokens", text_of(page, ".answer .problem"))
        settled(page, max_tokens=30)
        page.click(".again")
        page.wait("document.querySelector('.answer .markdown').innerText")
        page.wait(DONE)
        assert page.value("document.querySelectorAll('#messages > li').length") == 2
        page.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        ask(page)
        page.wait(DONE)
        assert text_of(page, ".answer:last-child .problem") == "The server cannot be reached. Is it still running?"

    def test_an_answer_that_ends_early_keeps_what_has_come(self, page: Page, server: RunningServer) -> None:
        opened(page, server, fed=True)
        for end, said in (
            ("feed({ error: { message: 'out of time' } })", "The answer ended early: out of time."),
            ("breakOff()", "The server cannot be reached. Is it still running?"),
            ("finish('length')", "The answer is cut: it reached the most tokens allowed."),
        ):  # fmt: skip
            ask(page)
            page.value("tell({ content: 'It is To' })")
            page.value(end)
            page.wait(DONE)
            assert text_of(page, ".answer:last-child .markdown") == "It is To"
            assert text_of(page, ".answer:last-child .notes") == said
            assert page.value("document.getElementById('status').textContent")

    def test_a_conversation_survives_a_reload_and_can_go_another_way(self, page: Page, server: RunningServer) -> None:
        opened(page, server)
        settled(page, temperature=0)
        ask(page)
        page.wait(DONE)
        page.press("Enter")  # of nothing
        ask(page, "What is the capital of France?")
        page.wait(DONE)
        texts = "[...document.querySelectorAll('#messages :is(.question > .text, .markdown)')]"
        seen = f"{texts}.map((each) => each.innerText)"
        both = [QUESTION, "Tokyo", "What is the capital of France?", "Paris"]
        assert page.value(seen) == both
        page.open(f"{server.address}/")
        page.wait(DONE)
        assert page.value(seen) == both
        page.click(".question .actions button:last-child")
        page.wait("document.activeElement.ariaLabel === 'Edited message'")
        page.value("document.activeElement.select()")
        page.type("What is the capital of Italy?")
        page.click(".editor .main")
        page.wait(f"{DONE} && document.querySelectorAll('#messages > li').length === 2")
        assert page.value(seen) == ["What is the capital of Italy?", "Rome"]
        page.click("#new-chat")
        assert page.value(seen) == []
        assert page.value("document.getElementById('welcome').checkVisibility()")
        page.open(f"{server.address}/")
        assert page.value(seen) == []

    def test_colours_follow_the_system_or_the_reader_and_can_be_read(self, page: Page, server: RunningServer) -> None:
        page.emulate(width=1100, dark=True)
        opened(page, server, fed=True)
        ask(page)
        page.value("tell({ reasoning_content: 'Japan.' })")
        page.value("tell({ content: 'It is `Tokyo`: [more](https://a.example)\\n\\n> yes\\n\\n```\\ncode\\n```' })")
        page.value("finish('length', { timings: { predicted_n: 3, predicted_per_second: 2 } })")
        page.wait(DONE)
        dark = page.value("getComputedStyle(document.body).backgroundColor")
        assert page.faint_texts() == []
        page.click("#theme")
        light = page.value("getComputedStyle(document.body).backgroundColor")
        assert light != dark
        assert page.faint_texts() == []
        page.open(f"{server.address}/")
        assert page.value("getComputedStyle(document.body).backgroundColor") == light
        page.click("#theme")
        assert page.value("getComputedStyle(document.body).backgroundColor") == dark
        page.emulate(width=1100)  # no choice is left: it follows again
        assert page.value("getComputedStyle(document.body).backgroundColor") == light

    def test_a_phone_need_not_scroll_sideways_and_its_enter_key_begins_a_line(
        self, page: Page, server: RunningServer
    ) -> None:
        page.emulate(width=360, phone=True)
        opened(page, server, fed=True)
        page.value("document.getElementById('text').focus()")
        page.type("a")
        page.press("Enter")
        page.type("W" * 200)
        assert page.value("document.getElementById('text').value") == f"a\n{'W' * 200}"
        page.click("#send")
        wide = "W" * 200
        page.wait("window.tell")
        page.value(f"tell({{ reasoning_content: '{wide}' }})")
        page.value(
            f"tell({{ content: `{wide}\\n\\n# {wide}\\n\\n- {wide}\\n\\n| {wide} | b |\\n|--|--|\\n| 1 | 2 |` }})"
        )
        page.value(f"tell({{ content: '\\n\\n~~~\\n{wide}\\n~~~\\n\\n' }})")
        page.value("finish('stop')")
        page.wait(DONE)
        page.value("document.querySelector('.thinking').open = true")
        boxes = "[document.documentElement, ...document.querySelectorAll('main, dialog[open]')]"
        beyond = f"{boxes}.map((each) => each.scrollWidth - each.clientWidth)"
        assert page.value(beyond) == [0, 0]
        page.click("#open-settings")
        assert page.value(beyond) == [0, 0, 0]
        buttons = "[...document.querySelectorAll('button')].filter((each) => each.checkVisibility())"
        assert page.value(f"Math.min(...{buttons}.map((each) => each.offsetHeight))") >= 40

    def test_everything_has_a_name_and_the_keyboard_reaches_it(self, page: Page, server: RunningServer) -> None:
        opened(page, server)
        settled(page, temperature=0)
        ask(page)
        page.wait(DONE)
        assert text_of(page, "#status") == "Answer: Tokyo"  # for who listens
        page.click("#open-settings")
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "textbox", "spinbutton", "combobox", "checkbox", "DisclosureTriangle", "dialog", "list"}
        named = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
        assert {"button", "textbox", "spinbutton", "dialog"} <= {node["role"]["value"] for node in named}
        assert [
            node for node in named if not node.get("name", {}).get("value") and node["role"]["value"] != "list"
        ] == []
        page.press("Escape")
        assert not page.value("document.getElementById('settings').open")
        reached = set()
        for _ in range(30):
            page.press("Tab")
            reached.add(page.value("document.activeElement.id || document.activeElement.innerText"))
        assert {"model", "new-chat", "open-settings", "theme", "text", "thinking", "send", "Edit", "Again"} <= reached
