"""`generate`: new token ids of one request, alone or beside those of others on one engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.speculation import Draft
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.thinking import ThinkingTokens


def generate(
    decoder: Decoder,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    statistics: Statistics | None = None,
    *,
    engine: Engine | None = None,
    draft: Draft | None = None,
    thinking: ThinkingTokens | None = None,
) -> Iterator[int]:
    """Generate token ids one by one; a stop token ends them and is not yielded. Fills `statistics` as it goes.

    At most max_new_tokens, and no more than fit the context (finish_reason "length"). The beginning of the prompt that
    `engine`, of this decoder, has computed for another text is not computed again, but for the prompt's last two
    tokens. Accepted draft tokens of `draft` make it faster. `thinking`: the model's tokens for it, which a
    thinking budget needs. UsageError, raised at once: the prompt is empty or leaves no room in the context.
    """
    context = decoder.config.max_position_embeddings
    request = Request(prompt_ids, settings, context, draft=draft, thinking=thinking, statistics=statistics)
    return _tokens(engine or Engine(Slots(decoder)), request)


def _tokens(engine: Engine, request: Request) -> Iterator[int]:
    generation = engine.generate(request)
    try:
        yield from generation
    finally:
        generation.close()
