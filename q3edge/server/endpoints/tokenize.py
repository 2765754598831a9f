"""POST /tokenize and /detokenize: token ids of a text or of a conversation's prompt, and their text; as vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.arguments import check_token_ids
from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.model import Model
from q3edge.runtime.text.message_checks import check_unicode
from q3edge.server.computing import ModelFields, compute
from q3edge.server.conversation import read_messages
from q3edge.server.errors import about, bad_field
from q3edge.server.limits import MAX_MESSAGES
from q3edge.server.models import Lease
from q3edge.server.service import Service
from q3edge.server.thinking_fields import TemplateFields
from q3edge.server.tool_fields import ToolsFields


class TokenizeFields(ModelFields, ToolsFields):
    """Body of /tokenize: a text as it is, or messages, which the chat template makes one of."""

    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: TemplateFields | None = None
    return_token_strs: bool = False

    missing: ClassVar[Mapping[str, str]] = {
        "content": "give prompt", "chat_template": "no request may bring one",
    }  # fmt: skip


class DetokenizeFields(ModelFields):
    """Body of /detokenize."""

    tokens: list[int]


async def tokenize(request: Request) -> Response:
    """Tell the token ids of a prompt."""
    return await compute(request, TokenizeFields, (), _tokenized, queued=False)


async def detokenize(request: Request) -> Response:
    """Tell the text of token ids."""
    return await compute(request, DetokenizeFields, (), _detokenized, queued=False)


async def _tokenized(fields: TokenizeFields, lease: Lease, service: Service) -> dict[str, Any]:
    return await service.in_worker(_answer, fields, lease.opened, lease.context)


def _answer(fields: TokenizeFields, model: Model | EmbeddingModel, context: int) -> dict[str, Any]:
    ids = _ids(fields, model)
    found = {"count": len(ids), "max_model_len": context, "tokens": ids}
    if not fields.return_token_strs:
        return found
    names = {index: name for name, index in model.tokenizer.vocabulary().items()}
    return found | {"token_strs": [names[token] for token in ids]}


def _ids(fields: TokenizeFields, model: Model | EmbeddingModel) -> list[int]:
    if (fields.prompt is None) == (fields.messages is None):
        raise bad_field("prompt", "give it or messages")
    if fields.prompt is not None:
        with about("prompt"):
            check_unicode(fields.prompt, "the prompt")
            if isinstance(model, EmbeddingModel):
                return model.tokenizer.encode_whole(fields.prompt)
            return model.tokenizer.encode_markup(fields.prompt)
    if isinstance(model, EmbeddingModel):
        raise bad_field("messages", "this model makes vectors of texts, and has no conversations; give prompt")
    messages = read_messages(fields.messages or ())
    asked = fields.chat_template_kwargs.enable_thinking if fields.chat_template_kwargs else None
    with about("messages"):
        return model.encode_chat(
            messages, thinking=asked, tools=fields.offered, add_generation_prompt=fields.add_generation_prompt
        )


async def _detokenized(fields: DetokenizeFields, lease: Lease, service: Service) -> dict[str, Any]:
    with about("tokens"):
        check_token_ids(fields.tokens, lease.config.vocab_size)
        return {"prompt": await service.in_worker(lease.opened.tokenizer.decode, fields.tokens)}


ROUTES = [Route("/tokenize", tokenize, methods=["POST"]), Route("/detokenize", detokenize, methods=["POST"])]
