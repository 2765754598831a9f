"""Knowledge: short questions about a fixed table of facts, asked in both directions."""

from __future__ import annotations

from random import Random

from ..item import Item
from .facts import RELATIONS, Relation

_CHOICES = [(relation, pair) for relation in RELATIONS for pair in relation.pairs]


def fact_item(relation: Relation, pair: tuple[str, str], rng: Random) -> Item:
    """Ask for one side of the pair in a random wording; the key is the wording with its fact."""
    a, b = pair
    backward = bool(relation.backward) and rng.random() < 0.5
    wording = rng.choice(relation.backward if backward else relation.forward)
    question = wording.format(a=a, b=b)
    steps = relation.sentence.format(a=a, b=b)
    return Item("knowledge", "en", question, steps[0].upper() + steps[1:], a if backward else b, question)


def sample(rng: Random, thinking: bool) -> Item:
    """Draw one fact question; thinking recalls the fact as a sentence first."""
    relation, pair = rng.choice(_CHOICES)
    return fact_item(relation, pair, rng)
