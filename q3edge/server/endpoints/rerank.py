"""POST /v1/rerank: documents by how far they answer a query, in the form that Jina, Cohere and vLLM have."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.generation.token_logits import TokenLogits
from q3edge.runtime.model import Model
from q3edge.runtime.reranker import Reranker, probability
from q3edge.server.body import Body
from q3edge.server.computing import ModelFields, compute
from q3edge.server.errors import about
from q3edge.server.limits import MAX_TEXTS
from q3edge.server.models import RERANKING, Lease
from q3edge.server.reading import Reading
from q3edge.server.sampling_fields import Text
from q3edge.server.service import Service
from q3edge.server.text_lengths import check_length, check_total

_DOCUMENTS_A_PLACE = 32


class TextDocument(Body):
    """Document as an object."""

    text: str


class RerankFields(ModelFields):
    """A request's body; beyond the others': an instruction, which says what is looked for."""

    query: str
    documents: Annotated[list[str | TextDocument], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    instruction: Text | None = None

    @property
    def texts(self) -> list[str]:
        """Texts of the documents."""
        return [each if isinstance(each, str) else each.text for each in self.documents]

    @property
    def places(self) -> int:
        """Places that it takes in the queue: reading so many documents takes as long as an answer."""
        return -(-len(self.documents) // _DOCUMENTS_A_PLACE)


async def rerank(request: Request) -> Response:
    """Rank documents."""
    return await compute(request, RerankFields, RERANKING, _ranked, places=lambda fields: fields.places)


async def _ranked(fields: RerankFields, lease: Lease, service: Service) -> dict[str, Any]:
    asked = await service.in_worker(_prepared, fields, lease.model)
    answers = lease.driver.submit([Reading(lease.model.engine, request) for request in asked])
    try:
        await answers.completions()
    finally:
        answers.close()
    scores = [probability(request) for request in asked]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: fields.top_n]
    texts = fields.texts
    read = sum(request.statistics.prompt_tokens for request in asked)
    return {
        "id": f"rerank-{uuid4().hex}", "object": "list", "model": lease.name,
        "results": [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": texts[index]}} if fields.return_documents else {})
            for index in best
        ],
        "usage": {"prompt_tokens": read, "total_tokens": read},
    }  # fmt: skip


def _prepared(fields: RerankFields, model: Model) -> list[TokenLogits]:
    with about("model"):
        reranker = Reranker.of(model)
    texts = fields.texts
    check_total(f"{fields.instruction or ''}{fields.query}", texts, "documents")
    for param, some in (("query", [fields.query]), ("documents", texts)):
        for text in some:
            check_length([text], model.tokenizer.encode_text, model.context, param)
    with about("documents"):
        return reranker.requests(fields.query, texts, instruction=fields.instruction)


ROUTES = [Route(path, rerank, methods=["POST"]) for path in ("/v1/rerank", "/v2/rerank", "/rerank")]
