"""POST /tokenize and /detokenize: token ids of a text or of a conversation's prompt, and their text; as vLLM's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.arguments import check_token_ids
from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.runtime.model import Model
from q3edge.server.computing import ModelFields, compute
from q3edge.server.errors import about
from q3edge.server.models import Lease
from q3edge.server.prompt_fields import PromptFields
from q3edge.server.service import Service


class TokenizeFields(PromptFields):
    """Body of /tokenize."""

    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeFields(ModelFields):
    """Body of /detokenize."""

    tokens: Annotated[list[int], Field(fail_fast=True)]


async def tokenize(request: Request) -> Response:
    """Tell the token ids of a prompt."""
    return await compute(request, TokenizeFields, (), _tokenized, places=lambda _fields: 0)


async def detokenize(request: Request) -> Response:
    """Tell the text of token ids."""
    return await compute(request, DetokenizeFields, (), _detokenized, places=lambda _fields: 0)


async def _tokenized(fields: TokenizeFields, lease: Lease, service: Service) -> dict[str, Any]:
    return await service.in_worker(_answer, fields, lease.opened)


def _answer(fields: TokenizeFields, model: Model | EmbeddingModel) -> dict[str, Any]:
    ids = fields.ids(model, add_generation_prompt=fields.add_generation_prompt)
    found = {"count": len(ids), "max_model_len": model.context, "tokens": ids}
    if not fields.return_token_strs:
        return found
    names = {index: name for name, index in model.tokenizer.vocabulary().items()}
    return found | {"token_strs": [names[token] for token in ids]}


async def _detokenized(fields: DetokenizeFields, lease: Lease, service: Service) -> dict[str, Any]:
    return {"prompt": await service.in_worker(_text, fields, lease)}


def _text(fields: DetokenizeFields, lease: Lease) -> str:
    with about("tokens"):
        check_token_ids(fields.tokens, lease.config.vocab_size)
        return lease.opened.tokenizer.decode(fields.tokens)


ROUTES = [Route("/tokenize", tokenize, methods=["POST"]), Route("/detokenize", detokenize, methods=["POST"])]
