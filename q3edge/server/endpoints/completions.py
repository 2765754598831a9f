"""POST /v1/completions: texts or token ids, continued as they are, without a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.model import Model
from q3edge.server.errors import about
from q3edge.server.generating import Json, Shape, generate, notices, usage
from q3edge.server.limits import MAX_PROMPTS
from q3edge.server.models import Lease
from q3edge.server.sampling_fields import SamplingFields
from q3edge.server.service import Service

_Ids = Annotated[list[int], Field(min_length=1)]
_Many = Field(min_length=1, max_length=MAX_PROMPTS)


def _kind(value: object) -> str:
    """Tag of the kind of prompt that a value is meant to be."""
    if not isinstance(value, list):
        return "str"
    first = value[0] if value else ""
    return "list[list[int]]" if isinstance(first, list) else "list[str]" if isinstance(first, str) else "list[int]"


_Prompt = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[str], _Many, Tag("list[str]")]
    | Annotated[_Ids, Tag("list[int]")]
    | Annotated[list[_Ids], _Many, Tag("list[list[int]]")],
    Discriminator(_kind),
]


class CompletionFields(SamplingFields):
    """A request's body."""

    prompt: _Prompt

    missing: ClassVar[Mapping[str, str]] = {
        "suffix": "Qwen3 has no way to fill a gap", "messages": "give prompt, or ask /v1/chat/completions",
        "best_of": "give n",
    }  # fmt: skip

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """All prompts."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


async def completions(request: Request) -> Response:
    """Continue prompts."""
    return await generate(request, CompletionFields, lambda fields: len(fields.prompts), _prepare, _Plain)


def _prepare(fields: CompletionFields, model: Model, service: Service) -> list[Stream]:
    settings = [fields.settings(model, service.options.max_new_tokens, index) for index in range(fields.n)]
    with about("prompt"):
        return [model.stream_raw(prompt, each) for prompt in fields.prompts for each in settings]


class _Plain(Shape):
    """Shape of the answers."""

    def __init__(self, fields: CompletionFields, common: Json, lease: Lease) -> None:
        self._fields = fields
        self._common = common | {"id": f"cmpl-{common['id']}", "object": "text_completion"}

    def whole(self, completions: Sequence[Completion]) -> Json:
        """One object."""
        choices = [
            _choice(index, completion.text, completion.stats.finish_reason)
            for index, completion in enumerate(completions)
        ]
        counted = {"usage": usage(completions, self._fields.n)}
        return self._common | {"choices": choices} | counted | notices(completions)

    def first(self, index: int) -> Iterator[Json]:
        """Nothing."""
        return iter(())

    def pieces(self, index: int, pieces: Sequence[Piece]) -> Iterator[Json]:
        """Text."""
        if pieces:
            yield self._common | {"choices": [_choice(index, "".join(piece.text for piece in pieces), None)]}

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """How it ended."""
        yield self._common | {"choices": [_choice(index, "", completion.stats.finish_reason)]} | notices([completion])

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Counts of tokens, if the request asks for them."""
        if self._fields.stream_options is not None and self._fields.stream_options.include_usage:
            yield self._common | {"choices": [], "usage": usage(completions, self._fields.n)}


def _choice(index: int, text: str, finish_reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


ROUTES = [Route("/v1/completions", completions, methods=["POST"])]
