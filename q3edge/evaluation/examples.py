"""The places where two models differ most, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from q3edge.evaluation.readings import NextTokens
from q3edge.evaluation.scorecard import Example
from q3edge.evaluation.slices import Judged
from q3edge.runtime.tokenizer import Tokenizer

SHOWN = 10
_CONTEXT_TOKENS = 64


def worst_examples(judged: Sequence[Judged], tokenizer: Tokenizer) -> tuple[Example, ...]:
    """At most SHOWN, one a passage, the largest KL first; none where the models agree exactly."""
    ranked = sorted(judged, key=lambda found: -found.reading.worst.kl)[:SHOWN]
    return tuple(_example(found, tokenizer) for found in ranked if found.reading.worst.kl > 0)


def _example(found: Judged, tokenizer: Tokenizer) -> Example:
    passage, worst = found.passage, found.reading.worst
    end = worst.position + 1
    ids = passage.window.token_ids[max(0, end - _CONTEXT_TOKENS) : end].tolist()
    context = tokenizer.decode(ids).lstrip("\ufffd")  # a character cut in two by the context's beginning

    def shown(tokens: NextTokens) -> tuple[tuple[str, float], ...]:
        return tuple((_spelled(token, tokenizer), probability) for token, probability in tokens)

    return Example(
        passage.suite, passage.item.id, context, worst.kl, shown(worst.reference_next), shown(worst.candidate_next)
    )


def _spelled(token: int, tokenizer: Tokenizer) -> str:
    """A token as text; the name of a special one, and the number of one without text (the table may be padded)."""
    return tokenizer.decode([token]) or next(
        (name for name, number in tokenizer.added_ids.items() if number == token), f"[{token}]"
    )
