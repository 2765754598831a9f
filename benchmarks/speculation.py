"""Decoding with prompt lookup against plain decoding, on text that repeats its prompt and on text that does not.

    python benchmarks/speculation.py ARTIFACT --questions gsm8k-test.jsonl --programs humaneval.jsonl

Questions are answered; of each program the first line is given again with its function renamed, and goes on. Every text
is decoded greedily three times a round, in turn: plain, guessing, plain. Guessing is told against the first plain, and
so is the second plain: what differs there is the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from machine import machine_line

from q3edge.runtime.generation.generate import generate
from q3edge.runtime.generation.ngram_draft import NGramDraft
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer


def answered(path: Path) -> list[str]:
    """Prompts that ask."""
    return [f"Question: {json.loads(line)['question']}\nAnswer:" for line in path.read_text("utf-8").splitlines()]


def renamed(path: Path) -> list[str]:
    """Prompts that end where a copy with another name begins."""
    prompts = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        program = row["prompt"] + row["canonical_solution"]
        head = program[program.index("def ") :].split("\n", 1)[0]
        prompts.append(f"{program}\n\n{head.replace(row['entry_point'], 'renamed')}\n")
    return prompts


def seconds(decoder: Decoder, ids: Sequence[int], new: int, *, guess: bool) -> tuple[float, list[int]]:
    """Of decoding alone, and the tokens."""
    found = Statistics()
    draft = NGramDraft() if guess else None
    tokens = list(generate(decoder, ids, GenerationSettings(max_new_tokens=new), found, draft=draft))
    return found.decode_seconds, tokens


def compared(decoder: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], new: int, rounds: int) -> str:
    """One line: the median over the texts of each text's median speed, the worst text, and how many came out alike."""
    guessing, again, alike = [], [], 0
    for prompt in prompts:
        ids = tokenizer.encode_text(prompt)
        found = [[seconds(decoder, ids, new, guess=guess) for guess in (False, True, False)] for _ in range(rounds)]
        plain, guessed, second = (statistics.median(run[i][0] for run in found) for i in range(3))
        guessing.append(plain / guessed)
        again.append(plain / second)
        alike += found[0][0][1] == found[0][1][1]
    return (
        f"guessing {statistics.median(guessing):.3f} times as fast (worst text {min(guessing):.3f}), "
        f"plain again {statistics.median(again):.3f} (worst {min(again):.3f}); "
        f"{alike} of {len(prompts)} texts are the same"
    )


def main() -> None:
    """Print one line for each kind of text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    decoder = Decoder(options.artifact)
    tokenizer = Tokenizer.load(options.artifact, decoder.config.vocab_size)
    print(machine_line())
    for name, prompts in (("answers", answered(options.questions)), ("renaming", renamed(options.programs))):
        chosen = prompts[: options.texts]
        print(f"{name}: {compared(decoder, tokenizer, chosen, options.new, options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
