"""POST /v1/chat/completions: the next message of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any, ClassVar
from uuid import uuid4

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.generation.setting_table import MAX_LOGPROBS
from q3edge.runtime.model import Model
from q3edge.runtime.text.tool_calls import CalledTool
from q3edge.server.conversation import read_messages
from q3edge.server.errors import about, bad_field
from q3edge.server.format_fields import response_format_settings
from q3edge.server.generating import Json, Shape, generate, notices, timings, usage
from q3edge.server.limits import MAX_MESSAGES
from q3edge.server.logprobs import TokenTexts
from q3edge.server.models import Lease
from q3edge.server.sampling_fields import Whole
from q3edge.server.service import Service
from q3edge.server.thinking_fields import Effort, ThinkingFields
from q3edge.server.tool_fields import ToolsFields


class ChatFields(ThinkingFields, ToolsFields):
    """A request's body."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Whole | None = None
    reasoning_effort: Effort | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    response_format: dict[str, Any] | None = None

    missing: ClassVar[Mapping[str, str]] = {
        "functions": "give tools", "function_call": "give tool_choice", "chat_template": "no request may bring one",
        "guided_json": "give response_format",
        "prompt": "give messages, or ask /v1/completions", "enable_thinking": "give it in chat_template_kwargs",
    }  # fmt: skip

    @property
    def effort(self) -> Effort | None:
        """Effort asked for."""
        return self.reasoning_effort


async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    return await generate(request, ChatFields, lambda fields: fields.n, _prepare, _Chat)


def _prepare(fields: ChatFields, model: Model, service: Service) -> list[Stream]:
    if fields.max_tokens is not None and fields.max_completion_tokens is not None:
        raise bad_field("max_tokens", "give it or max_completion_tokens")
    if fields.top_logprobs is not None and not fields.logprobs:
        raise bad_field("top_logprobs", "needs logprobs: true")
    if fields.logprobs:
        TokenTexts(model.tokenizer)  # here, where it stalls nobody
    messages, tools, calling = read_messages(fields.messages), fields.offered, fields.calling
    settings: Json = {"logprobs": (fields.top_logprobs or 0) if fields.logprobs else None}
    with about("response_format"):
        settings |= {} if fields.response_format is None else response_format_settings(fields.response_format)
    with about("messages"):
        return fields.answers(model, messages, service.options.max_new_tokens, tools, calling, **settings)


class _Chat(Shape):
    """Shape of the answers."""

    def __init__(self, fields: ChatFields, common: Json, lease: Lease) -> None:
        self._fields = fields
        self._common = common | {"id": f"chatcmpl-{common['id']}"}
        self._calls: dict[int, int] = {}  # number of the last call in each answer
        self._tokenizer = lease.model.tokenizer
        self._texts = TokenTexts(lease.model.tokenizer) if fields.logprobs else None

    def whole(self, completions: Sequence[Completion]) -> Json:
        """One object."""
        choices = [
            {
                "index": index, "message": self._message(index, each), "logprobs": self._logprobs(each.logprobs),
                "finish_reason": each.finish_reason,
            }
            for index, each in enumerate(completions)
        ]  # fmt: skip
        counted = {"usage": usage(completions, self._fields.n, self._tokenizer)}
        told = self._notices(completions) | timings(completions)
        return self._common | {"object": "chat.completion", "choices": choices} | counted | told

    def first(self, index: int) -> Iterator[Json]:
        """The role."""
        yield self._chunk(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprobs | None]) -> Iterator[Json]:
        """Thinking and text, each joined as far as it is in one; the last has the log probabilities of all."""
        deltas: list[Json] = []
        for (thinking, call), group in groupby(pieces, lambda piece: (piece.thinking, piece.tool_call)):
            if call is not None:
                deltas += [{"tool_calls": [{"index": self._number(index), **self._call(call)}]} for _ in group]
            else:
                text = "".join(piece.text for piece in group)
                deltas.append({"reasoning_content" if thinking else "content": text})
        found = self._logprobs(logprobs)
        if found is not None and not deltas:
            deltas.append({})
        for number, delta in enumerate(deltas, 1):
            yield self._chunk(index, delta, found if number == len(deltas) else None)

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """How it ended."""
        told = self._notices([completion]) | timings([completion])
        yield self._chunk(index, {}, None, completion.finish_reason) | told

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Counts of tokens, if the request asks for them."""
        if self._fields.stream_options is not None and self._fields.stream_options.include_usage:
            yield self._event([]) | {"usage": usage(completions, self._fields.n, self._tokenizer)}

    def _chunk(self, index: int, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None) -> Json:
        return self._event([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])

    def _event(self, choices: list[Json]) -> Json:
        return self._common | {"object": "chat.completion.chunk", "choices": choices}

    def _message(self, index: int, completion: Completion) -> Json:
        message: Json = {"role": "assistant", "content": completion.answer}
        if completion.thinking:
            message["reasoning_content"] = completion.thinking
        if completion.tool_calls:
            message["content"] = completion.answer or None
            message["tool_calls"] = [self._call(call) for call in completion.tool_calls]
        return message

    def _call(self, call: CalledTool) -> Json:
        """A call, with an id that no other has."""
        return {"id": f"call_{uuid4().hex}", "type": "function", "function": asdict(call)}

    def _number(self, index: int) -> int:
        """Number of the next call in the answer `index`."""
        self._calls[index] = self._calls.get(index, -1) + 1
        return self._calls[index]

    def _notices(self, completions: Sequence[Completion]) -> Json:
        return notices(completions, self._fields.tool_notices)

    def _logprobs(self, entries: Sequence[TokenLogprobs | None]) -> Json | None:
        return self._texts.chat(entries) if self._texts and entries else None


ROUTES = [Route("/v1/chat/completions", chat_completions, methods=["POST"])]
