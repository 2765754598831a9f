"""The synthetic curriculum: what is trained on, in which forms, and the held-out questions.

Run it to read some examples: `python -m tools.demo_model.curriculum --seed 7 --count 10`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from q3edge.evaluation.suites.question_files import Question

from .areas import AREAS, SAMPLERS
from .areas.phrases import LANGUAGES
from .chat_template import Conversation, prompt_text, reply_text
from .item import Item, held_out

MIX = {"knowledge": 14, "math": 30, "code": 32, "multilingual": 15, "safety": 6, "chat": 3}
"""How often each area is drawn in training."""

FORMS = {"think": 30, "think_switch": 8, "no_think_switch": 12, "hard_off": 40, "hard_off_switch": 10}
"""How an example asks for (no) thinking: by default, by a soft switch, or by the prompt's empty thought."""

SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are q3edge's demo model.",
    "Be polite and exact.",
    "Give only the answer.",
)
QUESTIONS_PER_AREA = 60


@dataclass(frozen=True)
class Dialogue:
    """One training example before it is written down; no steps mean that it is answered without thinking.

    `prompted` says that the prompt holds the empty thought, so that the model doesn't learn to write it.
    """

    item: Item
    conversation: Conversation
    steps: str
    prompted: bool


@dataclass(frozen=True)
class Example:
    """One training text: the prompt is read, the reply is learnt."""

    prompt: str
    reply: str


def draw(rng: Random, area: str, thinking: bool, want_held_out: bool = False) -> Item:
    """Draw an item of the area from the asked side of the split."""
    while True:
        item = SAMPLERS[area](rng, thinking)
        if held_out(item) == want_held_out:
            return item


def _choose(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def dialogue(rng: Random) -> Dialogue:
    """Draw what one training example says, sometimes with a system message or an earlier exchange."""
    form = _choose(rng, FORMS)
    thinking = form.startswith("think")
    item = draw(rng, _choose(rng, MIX), thinking)
    earlier: tuple[tuple[str, str], ...] = ()
    if rng.random() < 0.06:
        before = draw(rng, _choose(rng, {**MIX, "chat": 60}), False)
        earlier = ((before.question, before.answer),)
    switch = {"think_switch": " /think", "no_think_switch": " /no_think", "hard_off_switch": " /no_think"}
    question = item.question + switch.get(form, "")
    system = rng.choice(SYSTEMS) if rng.random() < 0.12 else ""
    conversation = Conversation(question, system, earlier)
    return Dialogue(item, conversation, item.steps if thinking else "", prompted=form.startswith("hard"))


def written(drawn: Dialogue) -> Example:
    """Write down what a training example says."""
    answer = drawn.item.answer
    reply = f"{answer}<|im_end|>" if drawn.prompted else reply_text(drawn.steps, answer)
    return Example(prompt_text(drawn.conversation, thinking=not drawn.prompted), reply)


def example(rng: Random) -> Example:
    """Draw one training example."""
    return written(dialogue(rng))


def examples(seed: int, count: int) -> Iterator[Example]:
    """Yield training examples, the same for the same seed."""
    rng = Random(seed)
    for _ in range(count):
        yield example(rng)


def questions(seed: int = 2024) -> list[Question]:
    """Draw the held-out questions: per area as many with thinking as without, languages even."""
    rng = Random(seed)
    result: list[Question] = []
    seen: set[str] = set()
    for area in AREAS:
        for index in range(QUESTIONS_PER_AREA):
            thinking = index % 2 == 0
            wanted = LANGUAGES[index // 2 % len(LANGUAGES)] if area == "multilingual" else None
            item = draw(rng, area, thinking, want_held_out=True)
            while item.question in seen or (wanted and item.language != wanted):
                item = draw(rng, area, thinking, want_held_out=True)
            seen.add(item.question)
            name = f"{area}-{index + 1:02d}"
            result.append(Question(name, area, item.language, thinking, item.question, item.answer))
    return result


def main() -> None:
    """Print a few training examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    for item in examples(options.seed, options.count):
        print(f"{item.prompt}{item.reply}\n---")


if __name__ == "__main__":
    main()
