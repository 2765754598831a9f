"""POST /v1/embeddings: vectors of length 1 of texts."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from q3edge.runtime.embedding_model import EmbeddingModel
from q3edge.server.computing import ModelFields, compute
from q3edge.server.errors import about, bad_field
from q3edge.server.limits import MAX_TEXTS
from q3edge.server.models import EMBEDDING, Lease
from q3edge.server.sampling_fields import Text, Whole
from q3edge.server.service import Service
from q3edge.server.text_lengths import check_length, check_total
from q3edge.server.text_or_ids import Ids, as_list, kind_of

_Many = Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)


class EmbeddingFields(ModelFields):
    """A request's body. Beyond OpenAI's: input_type, and the instruction of a query."""

    input: Annotated[
        Annotated[str, Tag("str")]
        | Annotated[list[str], _Many, Tag("list[str]")]
        | Annotated[Ids, Tag("list[int]")]
        | Annotated[list[Ids], _Many, Tag("list[list[int]]")],
        Discriminator(kind_of),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Whole | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: Text | None = None


async def embeddings(request: Request) -> Response:
    """Embed texts."""
    return await compute(request, EmbeddingFields, EMBEDDING, _embedded)


async def _embedded(fields: EmbeddingFields, lease: Lease, service: Service) -> dict[str, Any]:
    model = lease.embedding
    texts = await service.in_worker(_encoded, fields, model)
    if fields.dimensions is not None and not 1 <= fields.dimensions <= model.dimensions:
        raise bad_field("dimensions", f"expected 1 to {model.dimensions}")
    with about("input"):
        passes = model.passes(texts, dimensions=fields.dimensions)
    vectors: list[Any] = [None] * len(texts)
    done = False
    while not done:
        async with lease.turn:  # requests take turns, pass by pass
            some = await service.in_worker(next, passes, None)
        done = some is None
        for place, vector in zip(*some) if some is not None else ():
            vectors[place] = _written(vector, fields.encoding_format)
    read = sum(map(len, texts))
    service.metrics.prompt_tokens.labels(lease.name).inc(read)
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    counted = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": lease.name, "usage": counted}


def _encoded(fields: EmbeddingFields, model: EmbeddingModel) -> list[list[int]]:
    """Token ids of each text; those that a client gives are taken as they are."""
    texts: Any = as_list(fields.input)
    if isinstance(texts[0], str):
        if fields.input_type == "document" and fields.instruction is not None:
            raise bad_field("instruction", "it is for queries, and input_type is document")
        query = fields.input_type == "query"
        check_total(fields.instruction or "", texts, "input")
        for text in texts:
            check_length([text], model.tokenizer.encode_text, model.context, "input")
        with about("input"):
            return model.encode(texts, query=query, instruction=fields.instruction)
    if fields.input_type == "query" or fields.instruction is not None:
        raise bad_field("input", "token ids are taken as they are; give text for a query")
    ids: list[list[int]] = texts
    return ids


def _written(vector: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":  # of float32, the lowest byte first
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    written: list[float] = vector.tolist()
    return written


ROUTES = [Route("/v1/embeddings", embeddings, methods=["POST"])]
