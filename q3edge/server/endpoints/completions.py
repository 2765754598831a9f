"""POST /v1/completions: texts or token ids, continued as they are, without a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.generation.setting_table import MAX_LOGPROBS
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.server.errors import about, bad_field
from q3edge.server.generating import Json, Shape, generate, notices, usage
from q3edge.server.limits import MAX_PROMPTS
from q3edge.server.logprobs import TokenTexts
from q3edge.server.models import Lease
from q3edge.server.sampling_fields import SamplingFields
from q3edge.server.service import Service
from q3edge.server.text_lengths import check_length
from q3edge.server.text_or_ids import Ids, as_list, kind_of

_Many = Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)


_Prompt = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[str], _Many, Tag("list[str]")]
    | Annotated[Ids, Tag("list[int]")]
    | Annotated[list[Ids], _Many, Tag("list[list[int]]")],
    Discriminator(kind_of),
]


class CompletionFields(SamplingFields):
    """A request's body."""

    prompt: _Prompt
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    missing: ClassVar[Mapping[str, str]] = {
        "suffix": "Qwen3 has no way to fill a gap", "messages": "give prompt, or ask /v1/chat/completions",
        "best_of": "give n",
    }  # fmt: skip

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """All prompts."""
        return as_list(self.prompt)

    @property
    def scored(self) -> bool:
        """Whether the prompts themselves are read: for the log probabilities of their tokens, or for nothing else."""
        return self.echo and (self.logprobs is not None or not self.continued)

    @property
    def continued(self) -> int:
        """Number of answers that are generated to each prompt."""
        return 0 if self.max_tokens == 0 else self.n

    def chosen(self, model: Model, default_tokens: int | None) -> GenerationSettings:
        """Settings of the first answer. ApiError 400: fields do not go together, or one is bad.

        Where one token is asked for with its alternatives, a token that ends the text is one: there is always one.
        """
        if not self.continued and not self.echo:
            raise bad_field("max_tokens", "0 gives nothing but beside echo; expected at least 1")
        if self.echo and self.stream:
            raise bad_field("echo", "a stream begins with the answer; leave out echo or stream")
        fields = self if self.continued else self.model_copy(update={"max_tokens": None})
        settings = fields.settings(model, default_tokens) | {"logprobs": self.logprobs}
        if self.logprobs is not None and self.max_tokens == 1:
            settings["stop_token_ids"] = ()
        return model.settings(settings)


async def completions(request: Request) -> Response:
    """Continue prompts."""
    return await generate(
        request, CompletionFields, lambda fields: len(fields.prompts) * max(fields.continued, 1), _prepare, _Plain
    )


def _prepare(fields: CompletionFields, model: Model, service: Service) -> list[Stream]:
    """Streams of each prompt in turn: the reading of it if it is scored, and its answers."""
    settings = fields.chosen(model, service.options.max_new_tokens)
    streams: list[Stream] = []
    if fields.logprobs is not None:
        TokenTexts(model.tokenizer)  # here, where it stalls nobody
    with about("prompt"):
        for prompt in fields.prompts:
            if isinstance(prompt, str):
                check_length([prompt], model.tokenizer.encode_markup, model.context, "prompt")
            if fields.scored:
                streams.append(model.stream_score(prompt, top=fields.logprobs or 0))
            streams += [model.stream_raw(prompt, settings.for_answer(index)) for index in range(fields.continued)]
    return streams


class _Plain(Shape):
    """Shape of the answers."""

    def __init__(self, fields: CompletionFields, common: Json, lease: Lease) -> None:
        self._fields, self._tokenizer = fields, lease.model.tokenizer
        self._common = common | {"id": f"cmpl-{common['id']}", "object": "text_completion"}
        self._texts = None if fields.logprobs is None else TokenTexts(lease.model.tokenizer)
        self._begun: dict[int, int] = {}  # characters of each answer so far

    def whole(self, completions: Sequence[Completion]) -> Json:
        """One object."""
        left, choices, answers = iter(completions), list[Json](), list[Completion]()
        for prompt in self._fields.prompts:
            read = next(left) if self._fields.scored else None
            for _ in range(self._fields.continued):
                answers.append(next(left))
                choices.append(self._choice(len(choices), prompt, read, answers[-1]))
            if not self._fields.continued and read is not None:
                choices.append(self._choice(len(choices), prompt, read, None))
        return self._common | {"choices": choices} | self._usage(completions) | notices(answers)

    def pieces(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprobs | None]) -> Iterator[Json]:
        """Text, and the log probabilities of the tokens behind which it came."""
        text = "".join(piece.text for piece in pieces)
        if text or logprobs:
            found = self._logprobs([e.token_id for e in logprobs if e is not None], logprobs, self._begun.get(index, 0))
            self._begun[index] = self._begun.get(index, 0) + len(text)
            yield self._common | {"choices": [_choice(index, text, found, None)]}

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """How it ended."""
        choice = _choice(index, "", None, completion.stats.finish_reason)
        yield self._common | {"choices": [choice]} | notices([completion])

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Counts of tokens, if the request asks for them."""
        if self._fields.stream_options is not None and self._fields.stream_options.include_usage:
            yield self._common | {"choices": []} | self._usage(completions)

    def _choice(
        self, index: int, prompt: str | Sequence[int], read: Completion | None, answer: Completion | None
    ) -> Json:
        """One choice: the prompt, if it is echoed, and an answer to it, if there is one."""
        text = ""
        if self._fields.echo:
            text = prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
        parts = [part for part in (read, answer) if part is not None]
        found = self._logprobs(
            [token for part in parts for token in part.token_ids], [each for part in parts for each in part.logprobs]
        )
        reason = "length" if answer is None else answer.stats.finish_reason
        return _choice(index, text + (answer.text if answer else ""), found, reason)

    def _logprobs(
        self, token_ids: Sequence[int], entries: Sequence[TokenLogprobs | None], offset: int = 0
    ) -> Json | None:
        return self._texts.plain(token_ids, entries, offset) if self._texts and entries else None

    def _usage(self, completions: Sequence[Completion]) -> Json:
        """Counts of tokens: of each prompt once, and of the answers."""
        group = self._fields.continued + self._fields.scored
        if not self._fields.scored:
            return {"usage": usage(completions, group)}
        prompt = sum(len(each.token_ids) for each in completions[::group])
        new = sum(each.stats.new_tokens for each in completions)
        return {"usage": {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}}


def _choice(index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


ROUTES = [Route("/v1/completions", completions, methods=["POST"])]
