"""Calls of tools in a text: found whole, in any pieces; what is none stays text, to the character."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.runtime.text.tool_calls import CALL_END, CALL_START, CalledTool, CallSplitter


def split(pieces: Iterable[str]) -> tuple[list[str | CalledTool], list[str]]:
    """Texts, joined where they follow each other, and calls of a text in pieces; what is wrong with broken calls."""
    splitter, found = CallSplitter(), list[str | CalledTool]()
    given_out = [part for piece in pieces for part in splitter.push(piece)]
    for part in [*given_out, *splitter.finish()]:
        assert part
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found, splitter.broken


def call(name: str, **arguments: object) -> str:
    return f"{CALL_START}\n{json.dumps({'name': name, 'arguments': arguments})}\n{CALL_END}"


READ, RUN = CalledTool("read", '{"path": "a.txt"}'), CalledTool("run", '{"code": "print(1)\\n"}')
READ_TEXT, RUN_TEXT = call("read", path="a.txt"), call("run", code="print(1)\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (READ_TEXT, [READ]),
        (f"I look.\n{READ_TEXT}", ["I look.", READ]),
        (f"{READ_TEXT}\n{RUN_TEXT}", [READ, RUN]),
        (f"One.\n\n{READ_TEXT}\n\nTwo.\n{RUN_TEXT}\n\nEnd.\n", ["One.", READ, "\nTwo.", RUN, "\nEnd.\n"]),
        (f"{READ_TEXT}\n", [READ]),
        (f"{READ_TEXT} and", [READ, " and"]),
        ('<tool_call>{"name":"stop"}</tool_call>', [CalledTool("stop", "{}")]),
        (READ_TEXT.removesuffix(CALL_END), [READ]),  # the model forgot the end
        (call("say", text=f"write {CALL_END}"), [CalledTool("say", f'{{"text": "write {CALL_END}"}}')]),
        (call("say", text="日本 é"), [CalledTool("say", '{"text": "日本 é"}')]),
        ("a\n\nb\n", ["a\n\nb\n"]),
        ("a < b <tool <tool_cal", ["a < b <tool <tool_cal"]),
        (CALL_END, [CALL_END]),
        ("", []),
    ],
)  # fmt: skip
def test_calls_and_texts(text: str, expected: list[str | CalledTool]) -> None:
    assert split([text]) == (expected, [])
    assert split(text) == (expected, [])  # a character at a time


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is no JSON"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object with a name"),
        ('{"arguments": {}}', "no object with a name"),
        ('{"name": 3, "arguments": {}}', "no object with a name"),
        ('{"name": "", "arguments": {}}', "no object with a name"),
        ('{"name": "f", "arguments": "{}"}', "other fields than name and arguments"),
        ('{"name": "f", "parameters": {}}', "other fields than name and arguments"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "not valid Unicode"),
        ('{"name": "f", "arguments": {"a": "', "no </tool_call>, and a text in it does not end"),
    ],
)
def test_a_broken_call_stays_text_to_the_character(body: str, reason: str) -> None:
    text = f"See:\n\n{CALL_START}\n{body}{'' if 'does not end' in reason else CALL_END}\n"
    found, broken = split([text])
    assert found == [text]
    assert len(broken) == 1
    assert reason in broken[0]
    found, broken = split([f"{READ_TEXT}\n{text}\n{RUN_TEXT}"])
    assert found == [READ, text.rstrip("\n"), RUN]
    assert len(broken) == 1


WORDS = ["a", "\n", " ", "{", "}", '"', "\\", CALL_START, CALL_END, "<tool", "_call>", "</", READ_TEXT, RUN_TEXT, "é"]


def alone(text: str) -> list[CalledTool]:
    """What a reader of the whole text takes for calls: each tag with the first end that makes it one."""
    found, place = list[CalledTool](), 0
    while (start := text.find(CALL_START, place)) >= 0:
        end = start
        while (end := text.find(CALL_END, end + 1)) >= 0:
            try:
                call = json.loads(text[start + len(CALL_START) : end])
            except ValueError:
                continue
            if isinstance(call, dict) and call.get("name"):
                found.append(CalledTool(call["name"], json.dumps(call["arguments"], ensure_ascii=False)))
                break
        place = start + len(CALL_START) if end < 0 else end + len(CALL_END)
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join), st.data())
def test_any_pieces_of_a_text_give_the_same(text: str, data: st.DataObject) -> None:
    whole = split([text])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    assert split(pieces) == split(text) == whole
    calls = [part for part in whole[0] if isinstance(part, CalledTool)]
    closed = alone(text)
    assert calls[: len(closed)] == closed  # perhaps one more, whose end is missing
    if not calls:
        assert "".join(map(str, whole[0])) == text


def test_a_call_as_a_message_has_it() -> None:
    assert READ.parsed == {"path": "a.txt"}
    assert READ.in_message(2) == {
        "id": "call_2", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.txt"}'},
    }  # fmt: skip
