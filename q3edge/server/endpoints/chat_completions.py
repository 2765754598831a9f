"""POST /v1/chat/completions: the next message of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.model import Model
from q3edge.server.conversation import read_messages
from q3edge.server.errors import about, bad_field
from q3edge.server.generating import Json, Shape, generate, notices, usage
from q3edge.server.limits import MAX_MESSAGES
from q3edge.server.models import Lease
from q3edge.server.sampling_fields import Whole
from q3edge.server.service import Service
from q3edge.server.thinking_fields import Effort, ThinkingFields


class ChatFields(ThinkingFields):
    """A request's body."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Whole | None = None
    reasoning_effort: Effort | None = None

    missing: ClassVar[Mapping[str, str]] = {
        "functions": "give tools", "function_call": "give tool_choice", "chat_template": "no request may bring one",
        "prompt": "give messages, or ask /v1/completions", "enable_thinking": "give it in chat_template_kwargs",
    }  # fmt: skip

    @property
    def effort(self) -> Effort | None:
        """Effort asked for."""
        return self.reasoning_effort


async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    return await generate(request, ChatFields, lambda fields: 1, _prepare, _Chat)


def _prepare(fields: ChatFields, model: Model, service: Service) -> list[Stream]:
    if fields.max_tokens is not None and fields.max_completion_tokens is not None:
        raise bad_field("max_tokens", "give it or max_completion_tokens")
    messages = read_messages(fields.messages)
    settings = [fields.settings(model, service.options.max_new_tokens, index) for index in range(fields.n)]
    with about("messages"):
        return [fields.answer(model, messages, each) for each in settings]


class _Chat(Shape):
    """Shape of the answers."""

    def __init__(self, fields: ChatFields, common: Json, lease: Lease) -> None:
        self._fields = fields
        self._common = common | {"id": f"chatcmpl-{common['id']}"}

    def whole(self, completions: Sequence[Completion]) -> Json:
        """One object."""
        choices = [
            {"index": index, "message": _message(each), "logprobs": None, "finish_reason": each.stats.finish_reason}
            for index, each in enumerate(completions)
        ]
        counted = {"usage": usage(completions, self._fields.n)}
        return self._common | {"object": "chat.completion", "choices": choices} | counted | notices(completions)

    def first(self, index: int) -> Iterator[Json]:
        """The role."""
        yield self._chunk(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, pieces: Sequence[Piece]) -> Iterator[Json]:
        """Thinking and text, each joined as far as it is in one."""
        joined: list[tuple[bool, str]] = []
        for piece in pieces:
            if joined and joined[-1][0] == piece.thinking:
                joined[-1] = piece.thinking, joined[-1][1] + piece.text
            else:
                joined.append((piece.thinking, piece.text))
        for thinking, text in joined:
            yield self._chunk(index, {"reasoning_content" if thinking else "content": text})

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """How it ended."""
        yield self._chunk(index, {}, completion.stats.finish_reason) | notices([completion])

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Counts of tokens, if the request asks for them."""
        if self._fields.stream_options is not None and self._fields.stream_options.include_usage:
            yield self._event([]) | {"usage": usage(completions, self._fields.n)}

    def _chunk(self, index: int, delta: Json, finish_reason: str | None = None) -> Json:
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def _event(self, choices: list[Json]) -> Json:
        return self._common | {"object": "chat.completion.chunk", "choices": choices}


def _message(completion: Completion) -> Json:
    message: Json = {"role": "assistant", "content": completion.answer}
    if completion.thinking:
        message["reasoning_content"] = completion.thinking
    return message


ROUTES = [Route("/v1/chat/completions", chat_completions, methods=["POST"])]
