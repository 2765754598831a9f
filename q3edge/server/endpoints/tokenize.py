"""POST /tokenize and /detokenize: token ids of a text or of a conversation's prompt, and their text; as vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.arguments import check_token_ids
from q3edge.runtime.model import Model
from q3edge.runtime.text.message_checks import check_unicode
from q3edge.server.body import Body
from q3edge.server.computing import compute
from q3edge.server.conversation import read_messages
from q3edge.server.errors import about, bad_field
from q3edge.server.limits import MAX_MESSAGES
from q3edge.server.sampling_fields import Text
from q3edge.server.service import Service
from q3edge.server.thinking_fields import TemplateFields


class TokenizeFields(Body):
    """Body of /tokenize: a text as it is, or messages, which the chat template makes one of."""

    model: Text | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: TemplateFields | None = None
    return_token_strs: bool = False

    missing: ClassVar[Mapping[str, str]] = {
        "content": "give prompt", "chat_template": "no request may bring one",
    }  # fmt: skip


class DetokenizeFields(Body):
    """Body of /detokenize."""

    model: Text | None = None
    tokens: list[int]


async def tokenize(request: Request) -> Response:
    """Tell the token ids of a prompt."""
    return await compute(request, TokenizeFields, lambda fields: fields.model, _tokenized)


async def detokenize(request: Request) -> Response:
    """Tell the text of token ids."""
    return await compute(request, DetokenizeFields, lambda fields: fields.model, _detokenized)


def _tokenized(fields: TokenizeFields, model: Model, service: Service) -> dict[str, Any]:
    ids = _ids(fields, model)
    context = model.context or model.decoder.config.max_position_embeddings
    found = {"count": len(ids), "max_model_len": context, "tokens": ids}
    if not fields.return_token_strs:
        return found
    names = {index: name for name, index in model.tokenizer.vocabulary().items()}
    return found | {"token_strs": [names[token] for token in ids]}


def _ids(fields: TokenizeFields, model: Model) -> list[int]:
    if (fields.prompt is None) == (fields.messages is None):
        raise bad_field("prompt", "give it or messages")
    if fields.prompt is not None:
        with about("prompt"):
            check_unicode(fields.prompt, "the prompt")
            return model.tokenizer.encode_markup(fields.prompt)
    messages = read_messages(fields.messages or ())
    asked = fields.chat_template_kwargs.enable_thinking if fields.chat_template_kwargs else None
    with about("messages"):
        return model.encode_chat(messages, thinking=asked, add_generation_prompt=fields.add_generation_prompt)


def _detokenized(fields: DetokenizeFields, model: Model, service: Service) -> dict[str, Any]:
    with about("tokens"):
        check_token_ids(fields.tokens, model.decoder.config.vocab_size)
        return {"prompt": model.tokenizer.decode(fields.tokens)}


ROUTES = [Route("/tokenize", tokenize, methods=["POST"]), Route("/detokenize", detokenize, methods=["POST"])]
