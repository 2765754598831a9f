"""Worst examples: the positions where two models differ most, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from q3edge.evaluation.scorecard.readings import NextTokens
from q3edge.evaluation.scorecard.scorecard import Example
from q3edge.evaluation.scorecard.slices import ReadPassage
from q3edge.runtime.text.tokenizer import Tokenizer

SHOWN = 10
_CONTEXT_TOKENS = 64


def worst_places(passages: Sequence[ReadPassage]) -> list[ReadPassage]:
    """Select at most SHOWN positions, one per passage, largest KL first; none where the models agree exactly."""
    ranked = sorted(passages, key=lambda found: -found.reading.worst.kl)[:SHOWN]
    return [found for found in ranked if found.reading.worst.kl > 0]


def text_before(place: ReadPassage) -> list[int]:
    """Token ids of the passage up to the worst position: what both models had read before they predicted the next."""
    ids: list[int] = place.passage.window.token_ids[: place.reading.worst.position + 1].tolist()
    return ids


def worst_examples(
    places: Sequence[ReadPassage], tokenizer: Tokenizer, texts: Sequence[tuple[str, str]] = ()
) -> tuple[Example, ...]:
    """Examples of the positions. texts: the reference's and the candidate's continuation of each; empty: none."""
    examples = [_example(place, tokenizer) for place in places]
    if not texts:
        return tuple(examples)
    return tuple(
        replace(example, reference_text=by_reference, candidate_text=by_candidate)
        for example, (by_reference, by_candidate) in zip(examples, texts, strict=True)
    )


def _example(place: ReadPassage, tokenizer: Tokenizer) -> Example:
    passage, worst = place.passage, place.reading.worst
    context = tokenizer.decode(text_before(place)[-_CONTEXT_TOKENS:])
    context = context.lstrip("\ufffd")  # a character cut in two by the context's beginning

    def shown(tokens: NextTokens) -> tuple[tuple[str, float], ...]:
        return tuple((_spelled(token, tokenizer), probability) for token, probability in tokens)

    return Example(
        passage.suite, passage.item.id, context, worst.kl, shown(worst.reference_next), shown(worst.candidate_next)
    )


def _spelled(token: int, tokenizer: Tokenizer) -> str:
    """A token as text; the name of a special one, and the number of one without text (the embedding may be padded)."""
    return tokenizer.decode([token]) or next(
        (name for name, number in tokenizer.added_ids.items() if number == token), f"[{token}]"
    )
