"""`OutputItems`: an answer as items of OpenAI's Responses API, and the events by which each comes into being."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from q3edge.runtime.text.tool_calls import CalledTool

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Style:
    """Kind of an item that holds text: its type, the field and type of its part, names of events of part and text."""

    item: str
    field: str
    part: str
    part_events: str
    text_events: str


ANSWER = Style("message", "content", "output_text", "content_part", "output_text")
THINKING = Style("reasoning", "content", "reasoning_text", "content_part", "reasoning_text")
# Thinking in the place of a summary, for clients that show one: nothing shortens it.
SUMMARY = Style("reasoning", "summary", "summary_text", "reasoning_summary_part", "reasoning_summary_text")


class OutputItems:
    """Items of one answer so far. Texts and calls are added in their order; each gives events, to be sent at once."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self._open: Style | None = None  # of the last item, if text may still be added to it
        self._number = 0  # of the next event

    def event(self, kind: str, **fields: Any) -> Json:
        """Make the next event."""
        event = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def say(self, text: str, style: Style) -> Iterator[Json]:
        """Add text to the last item, or to a new one if that is of another style."""
        if self._open is not style:
            yield from self.close()
            yield from self._begin(style)
        self._part["text"] += text
        if text:
            yield self._text_event("delta", delta=text)

    def call(self, call: CalledTool) -> Iterator[Json]:
        """Add the call of a function."""
        yield from self.close()
        item: Json = {
            "id": f"fc_{uuid4().hex}", "type": "function_call", "status": "in_progress",
            "call_id": f"call_{uuid4().hex}", "name": call.name, "arguments": "",
        }  # fmt: skip
        self.items.append(item)
        place = {"item_id": item["id"], "output_index": len(self.items) - 1}
        yield self._item_event("added")
        yield self.event("function_call_arguments.delta", **place, delta=call.arguments)
        yield self.event("function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        item |= {"arguments": call.arguments, "status": "completed"}
        yield self._item_event("done")

    def close(self, status: str = "completed") -> Iterator[Json]:
        """End the last item, if it is open."""
        if self._open is None:
            return
        yield self._text_event("done", text=self._part["text"])
        yield self._part_event("done")
        self.items[-1]["status"] = status
        yield self._item_event("done")
        self._open = None

    @property
    def _part(self) -> Json:
        """The one part of the item that is open."""
        assert self._open is not None
        found: Json = self.items[-1][self._open.field][0]
        return found

    def _begin(self, style: Style) -> Iterator[Json]:
        self._open = style
        item: Json = {"type": style.item, "status": "in_progress", "content": []}
        if style is ANSWER:
            item |= {"id": f"msg_{uuid4().hex}", "role": "assistant"}
        else:
            item |= {"id": f"rs_{uuid4().hex}", "summary": []}
        self.items.append(item)
        yield self._item_event("added")
        part: Json = {"type": style.part, "text": ""}
        if style is ANSWER:
            part |= {"annotations": [], "logprobs": []}
        item[style.field] = [part]
        yield self._part_event("added")

    def _item_event(self, what: str) -> Json:
        return self.event(f"output_item.{what}", output_index=len(self.items) - 1, item=dict(self.items[-1]))

    def _part_event(self, what: str) -> Json:
        assert self._open is not None
        return self.event(f"{self._open.part_events}.{what}", **self._place, part=dict(self._part))

    def _text_event(self, what: str, **fields: Any) -> Json:
        assert self._open is not None
        more: Json = {"logprobs": []} if self._open is ANSWER else {}
        return self.event(f"{self._open.text_events}.{what}", **self._place, **fields, **more)

    @property
    def _place(self) -> Json:
        assert self._open is not None
        place = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        return place | {f"{self._open.field}_index": 0}
