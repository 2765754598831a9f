"""POST /v1/responses: the next turn of a conversation, as items. Nothing is stored: each request brings all of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.model import Model
from q3edge.server.body import Body
from q3edge.server.errors import ApiError, about
from q3edge.server.format_fields import response_format_settings
from q3edge.server.generating import Json, Shape, generate, notices, usage
from q3edge.server.input_items import read_items
from q3edge.server.limits import MAX_MESSAGES, MAX_TOOLS
from q3edge.server.models import Lease
from q3edge.server.output_items import ANSWER, SUMMARY, THINKING, OutputItems
from q3edge.server.service import Service
from q3edge.server.thinking_fields import Effort, ThinkingFields
from q3edge.server.tool_fields import (
    Choice,
    Function,
    FunctionType,
    Mode,
    NamedFunction,
    NamedTool,
    ToolFields,
    ToolsFields,
    text_or_object,
)


class ReasoningFields(Body):
    """How the answer thinks. summary: tell the thinking as a summary; nothing shortens it."""

    model_config = ConfigDict(extra="forbid")

    effort: Effort | None = None
    summary: Literal["auto", "detailed"] | None = None


class TextFields(Body):
    """What the answer's text looks like."""

    model_config = ConfigDict(extra="forbid")

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None  # what happens without


class FunctionTool(Function, FunctionType):
    """A tool."""


class FunctionChoice(NamedFunction, FunctionType):
    """The tool that has to be called."""


class ResponseFields(ThinkingFields):
    """A request's body."""

    input: Annotated[
        Annotated[str, Tag("str")]
        | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES), Tag("list")],
        Discriminator(lambda value: "str" if isinstance(value, str) else "list"),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning: ReasoningFields | None = None
    text: TextFields | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Annotated[Mode | Annotated[FunctionChoice, Tag("dict")], Discriminator(text_or_object)] | None = None
    parallel_tool_calls: bool = True
    include: Annotated[list[Literal["reasoning.encrypted_content"]], Field(max_length=8, fail_fast=True)] | None = (
        None  # the thinking is there as it is
    )
    metadata: dict[str, str] | None = None

    missing: ClassVar[Mapping[str, str]] = {
        "previous_response_id": "nothing is stored; send the whole conversation as input",
        "conversation": "nothing is stored; send the whole conversation as input",
        "prompt": "nothing is stored; give input", "messages": "give input", "max_tokens": "give max_output_tokens",
        "n": "there is one answer", "response_format": "give text.format", "reasoning_effort": "give reasoning.effort",
        "background": "answers come when they are asked for",
        "chat_template": "no request may bring one", "top_logprobs": "ask /v1/chat/completions for them",
    }  # fmt: skip

    @property
    def effort(self) -> Effort | None:
        """Effort asked for."""
        return self.reasoning.effort if self.reasoning else None

    @property
    def functions(self) -> ToolsFields:
        """Tools in the form of chat completions."""
        tools = [
            ToolFields(type="function", function=Function(**tool.model_dump(exclude={"type"})))
            for tool in self.tools or ()
        ]
        choice: Choice | None = None
        if isinstance(self.tool_choice, FunctionChoice):
            choice = NamedTool(type="function", function=NamedFunction(name=self.tool_choice.name))
        else:
            choice = self.tool_choice
        return ToolsFields(tools=tools, tool_choice=choice, parallel_tool_calls=self.parallel_tool_calls)


async def responses(request: Request) -> Response:
    """Answer a conversation."""
    return await generate(request, ResponseFields, lambda fields: 1, _prepare, _Response)


def _prepare(fields: ResponseFields, model: Model, service: Service) -> list[Stream]:
    messages, tools = read_items(fields.input, fields.instructions), fields.functions.offered
    asked = fields.text.format if fields.text else None
    if asked is not None and asked.get("type") == "json_schema":
        asked = {"type": "json_schema", "json_schema": {name: asked[name] for name in asked if name != "type"}}
    with about("text.format"):
        settings = {} if asked is None else response_format_settings(asked, "text.format")
    calling = fields.functions.calling
    with about("input"):
        return fields.answers(model, messages, service.options.max_new_tokens, tools, calling, **settings)


class _Response(Shape):
    """Shape of the answer."""

    done = False

    def __init__(self, fields: ResponseFields, common: Json, lease: Lease) -> None:
        self._fields, self._common = fields, common
        self._items = OutputItems()
        self._thinking = SUMMARY if fields.reasoning and fields.reasoning.summary else THINKING
        self._tokenizer = lease.model.tokenizer

    def whole(self, completions: Sequence[Completion]) -> Json:
        """One object."""
        (completion,) = completions
        texts = ((completion.thinking, True), (completion.answer, False))
        pieces = [Piece(text, thinking=thinking) for text, thinking in texts if text]
        pieces += [Piece("", tool_call=call) for call in completion.tool_calls]
        deque(self.pieces(0, pieces, ()), 0)
        deque(self.last(0, completion), 0)
        return self._finished(completion)

    def first(self, index: int) -> Iterator[Json]:
        """That it has begun."""
        yield self._items.event("created", response=self._object("in_progress"))
        yield self._items.event("in_progress", response=self._object("in_progress"))

    def pieces(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprobs | None]) -> Iterator[Json]:
        """Thinking, text and calls."""
        for piece in pieces:
            if piece.tool_call is not None:
                yield from self._items.call(piece.tool_call)
            else:
                yield from self._items.say(piece.text, self._thinking if piece.thinking else ANSWER)

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """The end of the last item; a message if there is none."""
        if not self._items.items:
            yield from self._items.say("", ANSWER)
        yield from self._items.close("incomplete" if completion.finish_reason == "length" else "completed")

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """The whole object."""
        found = self._finished(completions[0])
        yield self._items.event(found["status"], response=found)

    def failed(self, error: ApiError) -> Iterator[Json]:
        """The object with the error."""
        told = {"code": "server_error", "message": error.message}
        yield self._items.event("failed", response=self._object("failed", error=told))

    def _finished(self, completion: Completion) -> Json:
        cut = completion.finish_reason == "length"
        found = self._object("incomplete" if cut else "completed", settings=completion.settings)
        counted = usage([completion], 1, self._tokenizer)
        found["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        found["completed_at"] = None if cut else int(time.time())
        found["usage"] = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {**counted["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        return found | notices([completion], self._fields.functions.tool_notices)

    def _object(self, status: str, *, error: Json | None = None, settings: Any = None) -> Json:
        fields = self._fields
        chosen = fields if settings is None else settings
        asked = fields.text.format if fields.text else None
        choice = (
            fields.tool_choice.model_dump() if isinstance(fields.tool_choice, FunctionChoice) else fields.tool_choice
        )
        return {
            "id": f"resp_{self._common['id']}", "object": "response", "created_at": self._common["created"],
            "status": status, "error": error, "incomplete_details": None, "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens, "metadata": fields.metadata or {},
            "model": self._common["model"], "output": [dict(item) for item in self._items.items],
            "parallel_tool_calls": fields.parallel_tool_calls, "previous_response_id": None,
            "reasoning": {"effort": fields.effort, "summary": fields.reasoning.summary if fields.reasoning else None},
            "store": False, "temperature": chosen.temperature, "text": {"format": asked or {"type": "text"}},
            "tool_choice": choice or "auto", "tools": [tool.model_dump() for tool in fields.tools or ()],
            "top_p": chosen.top_p, "truncation": "disabled", "usage": None,
        }  # fmt: skip


ROUTES = [Route("/v1/responses", responses, methods=["POST"])]
