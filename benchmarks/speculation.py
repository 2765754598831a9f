"""Comparison of decoding with prompt lookup and plain decoding, on text that repeats its prompt and text that does not.

    python benchmarks/speculation.py ARTIFACT --questions gsm8k-test.jsonl --programs humaneval.jsonl
        [--texts 16] [--new 128] [--rounds 3] [--together 2,4]

Questions are answered; each program is followed by its first line with the function renamed, to be continued. Every
text is decoded greedily three times a round, in turn: plain, drafting, plain. Drafting is compared with the first plain
run, and so is the second plain run: a difference there comes from the machine. With --together, so many texts are
decoded at the same time as well, in passes that they share, without drafting, and in passes of their own, with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from machine import machine_line

from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.request import Request
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer


def question_prompts(path: Path) -> list[str]:
    """Prompts that ask the questions of a JSON-lines file."""
    return [f"Question: {json.loads(line)['question']}\nAnswer:" for line in path.read_text("utf-8").splitlines()]


def renaming_prompts(path: Path) -> list[str]:
    """Prompts with a program of a JSON-lines file, which end where a copy with another function name begins."""
    prompts = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        program = row["prompt"] + row["canonical_solution"]
        head = program[program.index("def ") :].split("\n", 1)[0]
        prompts.append(f"{program}\n\n{head.replace(row['entry_point'], 'renamed')}\n")
    return prompts


def time_decoding(decoder: Decoder, ids: Sequence[int], new: int, *, drafting: bool) -> tuple[float, list[int]]:
    """Decode at most `new` tokens; returns the seconds of decoding alone, and the tokens."""
    found = Statistics()
    draft = NGramDraft() if drafting else None
    tokens = list(generate(decoder, ids, GenerationSettings(max_new_tokens=new), found, draft=draft))
    return found.decode_seconds, tokens


def compare_speeds(decoder: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], new: int, rounds: int) -> str:
    """Time all prompts; returns one line: median and worst speedup over the texts, and how many texts are the same.

    A text's speedup is the ratio of its median times over the rounds.
    """
    speedups, again, alike = [], [], 0
    for prompt in prompts:
        ids = tokenizer.encode_text(prompt)
        found = [
            [time_decoding(decoder, ids, new, drafting=drafting) for drafting in (False, True, False)]
            for _ in range(rounds)
        ]
        plain, drafted, second = (statistics.median(run[i][0] for run in found) for i in range(3))
        speedups.append(plain / drafted)
        again.append(plain / second)
        alike += found[0][0][1] == found[0][1][1]
    return (
        f"drafting {statistics.median(speedups):.3f} times as fast (worst text {min(speedups):.3f}), "
        f"plain again {statistics.median(again):.3f} (worst {min(again):.3f}); "
        f"{alike} of {len(prompts)} texts are the same"
    )


def decode_together(decoder: Decoder, prompts: Sequence[Sequence[int]], new: int, *, drafting: bool) -> float:
    """Decode so many texts at the same time; returns tokens per second, without the time until all prompts are read."""
    context = decoder.config.max_position_embeddings
    settings = GenerationSettings(max_new_tokens=new)
    requests = [Request(ids, settings, context, draft=NGramDraft() if drafting else None) for ids in prompts]
    # With one row in each pass every request drafts, as it does alone.
    engine = Engine(Slots(decoder, len(prompts)), deterministic=drafting)
    for request in requests:
        engine.add(request, patient=True)
    while any(request.prefilling for request in requests):
        engine.step()
    before, began = sum(len(request.new_ids) for request in requests), time.perf_counter()
    while engine.busy:
        engine.step()
    return (sum(len(request.new_ids) for request in requests) - before) / (time.perf_counter() - began)


def compare_together(decoder: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], count: int, new: int) -> str:
    """Time groups of `count` texts; returns one line: the median over the groups, and the worst."""
    ids = [tokenizer.encode_text(prompt) for prompt in prompts]
    ratios = [
        decode_together(decoder, group, new, drafting=True) / decode_together(decoder, group, new, drafting=False)
        for group in (ids[start : start + count] for start in range(0, len(ids) - count + 1, count))
    ]
    return f"{count} at once, drafting alone over sharing passes: {statistics.median(ratios):.2f} ({min(ratios):.2f})"


def main() -> None:
    """Print one line for each kind of text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=lambda text: [int(part) for part in text.split(",")], default=[])
    options = parser.parse_args()
    decoder = Decoder(options.artifact)
    tokenizer = Tokenizer.load(options.artifact, decoder.config.vocab_size)
    print(machine_line())
    answers, renaming = question_prompts(options.questions), renaming_prompts(options.programs)
    for name, prompts in (("answers", answers), ("renaming", renaming)):
        chosen = prompts[: options.texts]
        print(f"{name}: {compare_speeds(decoder, tokenizer, chosen, options.new, options.rounds)}", flush=True)
        for count in options.together:
            print(f"{name}, {compare_together(decoder, tokenizer, chosen, count, options.new)}", flush=True)


if __name__ == "__main__":
    main()
