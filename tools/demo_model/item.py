"""One question of the curriculum, and the rule that keeps held-out questions out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

COMPUTED_PERCENT = 8
WORDED_PERCENT = 20
SALT = "q3edge-12"
"""Chosen so that every fact and request keeps a wording on the training side."""


@dataclass(frozen=True)
class Item:
    """A question with its worked steps (the thinking) and its exact answer.

    `key` is the content that the held-out split looks at.  Two items that share a key (the same sum
    in two wordings, say) are on the same side of the split.  An empty key is never held out.
    """

    area: str
    language: str
    question: str
    steps: str
    answer: str
    key: str


Sampler = Callable[[Random, bool], Item]
"""Draws one item; the flag says whether it will be answered with thinking."""


def held_out(item: Item) -> bool:
    """Say whether the item's content belongs to the held-out side.

    Computed questions are keyed by their operands or program.  Those that ask for something learnt are
    keyed by their own wording, are far fewer, and give a larger share.
    """
    if not item.key:
        return False
    digest = hashlib.blake2b(f"{SALT}:{item.key}".encode(), digest_size=8).digest()
    percent = WORDED_PERCENT if item.key == item.question else COMPUTED_PERCENT
    return int.from_bytes(digest, "big") % 100 < percent
