"""Writes calibration text for the demo model: dialogues drawn as the training draws them, as JSON lines of messages.

Run it: `python -m tools.demo_model.calibration --seed 7 --count 480 --out q3edge/data/demo_model/calibration.jsonl`.
Held-out questions stay out, because `dialogue` draws from the training side only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from .curriculum import Dialogue, dialogue
from .files import write_lines

AREAS = {"chat": "knowledge"}
"""The curriculum's areas that count as another one in calibration."""


def record(drawn: Dialogue) -> dict[str, Any]:
    """One line: the turns, and what they are about.

    The answer always has `reasoning_content`: empty, it says that thinking was off, as training has no answer
    without the marks of a thought.
    """
    talk, item = drawn.conversation, drawn.item
    messages = [{"role": "system", "content": talk.system}] if talk.system else []
    for question, answer in talk.earlier:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": talk.question})
    messages.append({"role": "assistant", "content": item.answer, "reasoning_content": drawn.steps})
    return {"messages": messages, "area": AREAS.get(item.area, item.area), "language": item.language}


def records(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield that many lines, no two with the same messages, the same for the same seed."""
    rng = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        line = record(dialogue(rng))
        if str(line["messages"]) not in seen:
            seen.add(str(line["messages"]))
            yield line


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=480)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_lines(options.out, records(options.seed, options.count))


if __name__ == "__main__":
    main()
