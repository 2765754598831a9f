"""Calls of tools in an answer's text: Qwen3's `<tool_call>`, a JSON object with name and arguments, `</tool_call>`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from q3edge.runtime.text.message_checks import refuse_constant
from q3edge.runtime.text.messages import FunctionCall, ToolCall

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_LONGEST_REASON = 100  # characters


@dataclass(frozen=True, slots=True)
class CalledTool:
    """Call of a tool by the model: the function's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str

    @property
    def parsed(self) -> dict[str, Any]:
        """Arguments as a dict."""
        found: dict[str, Any] = json.loads(self.arguments)
        return found

    def in_message(self, index: int) -> ToolCall:
        """Call as an assistant's message has it; `index`: its place among those of the message, which makes its id."""
        function: FunctionCall = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{index}", "type": "function", "function": function}


class CallSplitter:
    """Filter of an answer's text that arrives in pieces: whole calls are taken out, what is none stays text.

    What could be the beginning of a call is held back, and so are line ends, which are layout beside a call; text
    before and behind a call is apart by one. A call that the text's end lacks only the closing tag of counts. broken:
    for each `<tool_call>` that began no call, what is wrong with it.
    """

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._held = ""  # not yet given out
        self._inside = False  # it begins with `CALL_START`
        self._searched = 0  # characters of it in which no `CALL_END` needs to be looked for
        self._layout = ""  # line ends before it, if it begins with `CALL_START`
        self._said = False  # there was text
        self._behind = False  # a call came after that

    def push(self, text: str) -> Iterator[str | CalledTool]:
        """Take a piece; yields the texts, not empty, and calls that it completes."""
        self._held += text
        while (found := self._inside_call() if self._inside else self._outside()) is not None:
            yield from found
        if not self._inside:
            yield from self._text(self._safe())

    def finish(self) -> Iterator[str | CalledTool]:
        """Yield what was held back; the text has ended."""
        while self._inside:
            body = self._held[len(CALL_START) :]
            call = _called(body)
            if isinstance(call, CalledTool):
                self._held, self._inside = "", False
                yield self._call(call)
            else:
                yield from self._refuse(f"it has no {CALL_END}, and {call}")
                yield from self.push("")
        yield from self._text(self._held)
        self._held = ""

    def _outside(self) -> list[str | CalledTool] | None:
        """Text before the next call; None: there is none yet."""
        place = self._held.find(CALL_START)
        if place < 0:
            return None
        before, self._held = self._held[:place], self._held[place:]
        text = before.rstrip("\n")
        self._layout, self._inside, self._searched = before[len(text) :], True, len(CALL_START)
        return list(self._text(text))

    def _inside_call(self) -> list[str | CalledTool] | None:
        """The call, or the text that is none; None: its end has not come."""
        place = self._held.find(CALL_END, self._searched)
        if place < 0:
            self._searched = max(len(CALL_START), len(self._held) - len(CALL_END) + 1)
            return None
        body, end = self._held[len(CALL_START) : place], place + len(CALL_END)
        call = _called(body)
        if isinstance(call, CalledTool):
            self._held, self._inside = self._held[end:], False
            return [self._call(call)]
        if call == _OPEN_STRING:  # the tag may be part of a text in the arguments
            self._searched = end
            return []
        return list(self._refuse(call))

    def _call(self, call: CalledTool) -> CalledTool:
        self._behind = True
        return call

    def _refuse(self, reason: str) -> Iterator[str]:
        """Give out the opening tag as text; what follows is looked at anew."""
        self.broken.append(reason)
        self._held, self._inside = self._held[len(CALL_START) :], False
        yield from self._text(self._layout + CALL_START)

    def _safe(self) -> str:
        """Take the text that surely stands before any call, without line ends that may be beside one."""
        kept = min(len(CALL_START) - 1, len(self._held))
        while kept and not CALL_START.startswith(self._held[-kept:]):
            kept -= 1
        text = self._held[: len(self._held) - kept].rstrip("\n")
        self._held = self._held[len(text) :]
        return text

    def _text(self, text: str) -> Iterator[str]:
        if self._behind:
            text = text.lstrip("\n")
        if text:
            yield "\n" + text if self._behind and self._said else text
            self._said, self._behind = True, False


_OPEN_STRING = "a text in it does not end"


def _called(body: str) -> CalledTool | str:
    """The call that a JSON text is, or what is wrong with it."""
    try:
        found = json.loads(body.strip(), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        return _OPEN_STRING if error.msg.startswith("Unterminated string") else f"it is not JSON ({error.msg})"
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({error!s:.{_LONGEST_REASON}})"
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not found["name"]:
        return "it is no object with a name"
    arguments = found.get("arguments", {})
    if not isinstance(arguments, dict) or found.keys() - {"name", "arguments"}:
        return "it has other fields than name and arguments, an object"
    text = json.dumps(arguments, ensure_ascii=False)  # as templates write it
    try:
        (found["name"] + text).encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return CalledTool(found["name"], text)
