"""How often a greedy answer in a batch differs from the answer that the same request gets alone, and where.

    python benchmarks/batch_equality.py ARTIFACT [--requests 200] [--batch 8] [--new 64] [--text FILE] [--threads N]
        [--patient]

Prompts are 8 to 200 tokens from the text. Requests join one every few passes, so that prompts are read in chunks
beside tokens. Each answer is compared with that of a deterministic engine: one row in each pass, whole chunks. Where
they part, the two tokens' logits after the same text say how near a tie it was. --patient: whole chunks in both.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from machine import machine_line

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer


def prompts_of(ids: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """Parts of a text, each from a place of its own."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        length = chance.randrange(8, 201)
        start = chance.randrange(len(ids) - length)
        found.append(list(ids[start : start + length]))
    return found


def answers(
    engine: Engine, decoder: Decoder, prompts: Sequence[list[int]], new: int, seed: int, *, patient: bool
) -> list[list[int]]:
    """Token ids of the answers; requests join while others run."""
    chance, context = random.Random(seed), decoder.config.max_position_embeddings
    requests = [Request(prompt, GenerationSettings(new), context) for prompt in prompts]
    waiting = list(requests)
    while waiting or engine.busy:
        if waiting and (chance.random() < 0.25 or not engine.busy):
            engine.add(waiting.pop(0), patient=patient)
        for event in engine.step():
            if event.error is not None:
                raise event.error
    return [request.new_ids for request in requests]


def gap(decoder: Decoder, ids: Sequence[int], one: int, other: int) -> float:
    """Difference of two tokens' logits after `ids`, as a share of the largest."""
    logits = decoder.forward(np.array([ids]), decoder.new_cache(len(ids)))[0, 0]
    return abs(float(logits[one] - logits[other])) / float(np.abs(logits).max())


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--text", type=Path, default=Path(str(files("q3edge.data") / "validation/knowledge.txt")))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--patient", action="store_true")
    chosen = parser.parse_args()
    decoder = Decoder(chosen.artifact, threads=chosen.threads)
    text = Tokenizer.load(chosen.artifact, decoder.config.vocab_size).encode_text(chosen.text.read_text("utf-8"))
    prompts = prompts_of(text, chosen.requests, seed=1)
    engines = [Engine(Slots(decoder, chosen.batch)), Engine(Slots(decoder, chosen.batch), deterministic=True)]
    batched, alone = (
        answers(engine, decoder, prompts, chosen.new, seed=2, patient=chosen.patient) for engine in engines
    )
    parted = [
        (next(i for i, (a, b) in enumerate(zip(one, other)) if a != b), prompt, one, other)
        for prompt, one, other in zip(prompts, batched, alone)
        if one != other
    ]
    gaps = sorted(gap(decoder, [*prompt, *one[:i]], one[i], other[i]) for i, prompt, one, other in parted)
    shown = ""
    if gaps:
        median = float(np.median(gaps))
        shown = f"; there two tokens' logits differ by {median:.1e} of the largest (median; most {gaps[-1]:.1e})"
    print(
        f"{chosen.artifact}: {len(parted)} of {chosen.requests} answers of {chosen.new} tokens part, batch "
        f"{chosen.batch}{shown}; {machine_line()}"
    )


if __name__ == "__main__":
    main()
