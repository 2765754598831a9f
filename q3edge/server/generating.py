"""How endpoints answer with generated text: from a request's body to one JSON object, or to a stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import uuid4

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from q3edge.artifact import Notice
from q3edge.runtime.completion import Completion, Piece, Stream
from q3edge.runtime.generation.logprobs import TokenLogprobs
from q3edge.runtime.model import Model
from q3edge.runtime.text.thinking import THINK_END
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.server.driver import Answers
from q3edge.server.errors import ApiError, as_api_error
from q3edge.server.limits import READ_SECONDS
from q3edge.server.models import WRITING, Lease
from q3edge.server.sampling_fields import SamplingFields
from q3edge.server.service import NOBODY, Record, Service, read_fields, record_of, service_of, unless_gone

_PING_SECONDS = 15  # between comments that keep a silent connection open
Fields = TypeVar("Fields", bound=SamplingFields)
Json = dict[str, Any]


class Shape(Protocol):
    """What an endpoint's answers look like. done: a stream's last event is the text [DONE]."""

    done: ClassVar[bool] = True

    def whole(self, completions: Sequence[Completion]) -> Json:
        """Answer as one object."""

    def first(self, index: int) -> Iterator[Json]:
        """Events before an answer's first piece; the usual is none."""
        return iter(())

    def pieces(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprobs | None]) -> Iterator[Json]:
        """Events of pieces and log probabilities that came together; there may be none of one of them."""

    def last(self, index: int, completion: Completion) -> Iterator[Json]:
        """Events behind an answer's last piece."""

    def end(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Events behind all."""

    def failed(self, error: ApiError) -> Iterator[Json]:
        """Events of an error, which ends the stream."""
        yield error.body()


async def generate(
    request: Request,
    schema: type[Fields],
    answers_of: Callable[[Fields], int],
    prepare: Callable[[Fields, Model, Service], list[Stream]],
    shape: Callable[[Fields, Json, Lease], Shape],
) -> Response:
    """Answer a request with generated text.

    answers_of: how many a body asks for; prepare: the streams of all, made in a worker thread; shape: how answers look,
    told the fields that all objects have. ApiError: the request is refused.
    """
    service, record = service_of(request), record_of(request)
    fields = await read_fields(request, schema)
    lease = await service.models.lease(fields.model, WRITING)
    answers: Answers | None = None

    def close() -> None:
        if answers is not None:
            answers.close()
        lease.release()

    streaming = False
    try:
        record.model = lease.name
        lease.admit(answers_of(fields))
        streams = await service.in_worker(prepare, fields, lease.model, service)
        answers = lease.driver.submit(streams)
        common = {"id": uuid4().hex, "created": int(time.time()), "model": lease.name}
        told = shape(fields, common, lease)
        if fields.stream:
            response = _EventStream(_events(answers, told, record), close)
            streaming = True
            return response
        completions = await unless_gone(request, answers.completions())
        if completions is None:
            return NOBODY
        _note(record, completions, answers)
        return JSONResponse(told.whole(completions))
    finally:
        if not streaming:
            close()


class _EventStream(EventSourceResponse):
    """Stream of events; `close` is called at its end, whichever it is."""

    def __init__(self, events: AsyncIterator[Mapping[str, str]], close: Callable[[], None]) -> None:
        super().__init__(events, sep="\n", ping=_PING_SECONDS, send_timeout=READ_SECONDS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _events(answers: Answers, shape: Shape, record: Record) -> AsyncIterator[Mapping[str, str]]:
    """Events of a stream; an error is the last of them, as the answer has begun."""
    completions: dict[int, Completion] = {}
    begun: set[int] = set()
    record.outcome = "cancelled"  # unless it comes to its end
    try:
        async for update in answers.updates():
            if update.index not in begun:
                begun.add(update.index)
                for event in shape.first(update.index):
                    yield _event(event)
            for event in shape.pieces(update.index, update.pieces, update.logprobs):
                yield _event(event)
            if update.completion is not None:
                completions[update.index] = update.completion
                for event in shape.last(update.index, update.completion):
                    yield _event(event)
        found = [completions[index] for index in sorted(completions)]
        for event in shape.end(found):
            yield _event(event)
        record.outcome = None
        _note(record, found, answers)
    except Exception as error:
        refused = as_api_error(error)
        record.outcome = "failed"
        record.fail(refused, error)
        for event in shape.failed(refused):
            yield _event(event)
    if shape.done:
        yield {"data": "[DONE]"}


def _event(fields: Json) -> Mapping[str, str]:
    named = {"event": fields["type"]} if "type" in fields else {}
    return {**named, "data": json.dumps(fields, ensure_ascii=False, separators=(",", ":"))}


def _note(record: Record, completions: Sequence[Completion], answers: Answers) -> None:
    record.prompt_tokens = sum(each.stats.prompt_tokens for each in completions)
    record.cached_tokens = sum(each.stats.reused_tokens for each in completions)
    record.new_tokens = sum(each.stats.new_tokens for each in completions)
    record.finish_reasons = [each.finish_reason for each in completions]
    record.first_token_seconds = answers.first_seconds and round(answers.first_seconds, 4)


def usage(completions: Sequence[Completion], answers_per_prompt: int, tokenizer: Tokenizer | None = None) -> Json:
    """Counts of tokens in OpenAI's form; a prompt counts once, however many answers it has.

    tokenizer: that of answers that may think, by which the tokens of their thinking are counted.
    """
    prompts = completions[::answers_per_prompt]
    prompt = sum(each.stats.prompt_tokens for each in prompts)
    new = sum(each.stats.new_tokens for each in completions)
    cached = sum(each.stats.reused_tokens for each in prompts)
    counted: Json = {
        "prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
    if tokenizer is not None:
        end = tokenizer.added_ids.get(THINK_END)
        counted["completion_tokens_details"] = {"reasoning_tokens": sum(_thought(each, end) for each in completions)}
    return counted


def _thought(completion: Completion, end: int | None) -> int:
    """Number of tokens of the thinking, its end included."""
    if not completion.thinking:
        return 0
    ids = completion.token_ids
    return ids.index(end) + 1 if end in ids else len(ids)


def notices(completions: Sequence[Completion], of_all: Sequence[Notice] = ()) -> Json:
    """Field with what is out of the ordinary about single answers and about all; nothing if nothing is."""
    told: list[Json] = [{"code": each.code, "count": each.count, "detail": each.detail} for each in of_all]
    told += [
        {"index": index, "code": notice.code, "count": notice.count, "detail": notice.detail}
        for index, completion in enumerate(completions)
        for notice in completion.notices
    ]
    return {"notices": told} if told else {}


def timings(completions: Sequence[Completion]) -> Json:
    """Field with how fast a single answer was, by the names of llama.cpp's server; nothing for several."""
    if len(completions) != 1:
        return {}
    stats = completions[0].stats
    return {
        "timings": {
            "cache_n": stats.reused_tokens, "prompt_n": stats.prompt_tokens - stats.reused_tokens,
            "prompt_ms": round(1000 * stats.prefill_seconds, 3),
            "prompt_per_second": round(stats.prefill_tokens_per_second, 3), "predicted_n": stats.new_tokens,
            "predicted_ms": round(1000 * stats.decode_seconds, 3),
            "predicted_per_second": round(stats.decode_tokens_per_second, 3),
        }
    }  # fmt: skip
