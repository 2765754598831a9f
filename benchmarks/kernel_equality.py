"""How often a greedy answer by one set of kernels differs from another's, where, and how near a tie it was there.

    python benchmarks/kernel_equality.py ARTIFACT --text FILE [--kernels onnxruntime q3edge] [--prompts 200]
        [--tokens 32] [--threads N]

Prompts are so many tokens each, from places of the text that lie equally far apart; answers are as long. For the
scale, each answer is also read in one pass by the kernels that gave it: where another token is then likelier, they
part from themselves. A margin is the difference of the two largest logits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from machine import machine_line
from numpy.typing import NDArray

from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.text.tokenizer import Tokenizer


def answer(decoder: Decoder, prompt: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Greedy tokens int64 [count], and the margin of each, float32 [count]."""
    cache, ids = decoder.new_cache(len(prompt) + count), prompt
    tokens, margins = np.zeros(count, np.int64), np.zeros(count, np.float32)
    for i in range(count):
        logits = decoder.forward(ids[None], cache)[0, 0]
        second, first = np.argpartition(logits, -2)[-2:]
        tokens[i], margins[i] = first, logits[first] - logits[second]
        ids = tokens[i : i + 1]
    return tokens, margins


def read_at_once(decoder: Decoder, prompt: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Likeliest tokens int64 [N] at the places of `tokens` behind the prompt, all in one pass."""
    ids = np.concatenate([prompt, tokens[:-1]])
    logits = decoder.forward(ids[None], decoder.new_cache(len(ids)), keep=len(tokens))
    likeliest: NDArray[np.int64] = logits[0].argmax(axis=-1)
    return likeliest


def line(name: str, one: NDArray[np.int64], other: NDArray[np.int64], margins: NDArray[np.float32]) -> str:
    """Compare answers int64 [prompts, tokens]; `margins` are those of `one`."""
    parts = (one != other).any(axis=1)
    steps = (one != other).argmax(axis=1)
    if not parts.any():
        return f"{name}: none of {len(one)} part"
    there = margins[parts, steps[parts]]
    others = margins[np.arange(margins.shape[1]) < np.where(parts, steps, margins.shape[1])[:, None]]
    return (
        f"{name}: {parts.sum()} of {len(one)} part, at step {np.median(steps[parts]) + 1:g} (median); margin there "
        f"{np.median(there):.3f} (median; most {there.max():.3f}), at {others.size} steps before "
        f"{np.median(others):.3f}, {np.mean(others <= np.median(there)):.1%} of them within the former's median"
    )


def main() -> None:
    """Print one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--kernels", nargs=2, default=["onnxruntime", "q3edge"])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    prompts, answers, margins = np.zeros((0, 0), np.int64), [], []
    print(f"{chosen.artifact}: {machine_line()}")
    for kernels in chosen.kernels:
        decoder = Decoder(chosen.artifact, threads=chosen.threads, kernels=kernels)
        if not prompts.size:
            text = Tokenizer.load(chosen.artifact, decoder.config.vocab_size).encode_text(
                chosen.text.read_text("utf-8")
            )
            starts = np.arange(chosen.prompts) * (len(text) // chosen.prompts)
            prompts = np.array(text)[starts[:, None] + np.arange(chosen.tokens)]
        found = [answer(decoder, prompt, chosen.tokens) for prompt in prompts]
        answers.append(np.array([tokens for tokens, _ in found]))
        margins.append(np.array([each for _, each in found]))
        again = np.array([read_at_once(decoder, *pair) for pair in zip(prompts, answers[-1])])
        print(line(f"{decoder.kernels}, one by one and at once", answers[-1], again, margins[-1]), flush=True)
    print(line(" and ".join(chosen.kernels), answers[0], answers[1], margins[0]))


if __name__ == "__main__":
    main()
