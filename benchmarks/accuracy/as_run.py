"""How far models are from the float one as their runtimes run them: rounded activations and a token at a time included.

    python benchmarks/accuracy/as_run.py CHECKPOINT tokens.npz [ARTIFACT...] [--logits FILE...]

ARTIFACT is an export of q3edge; FILE holds the logits of another runtime (peers/logits_mnn.py). All read the first
tokens of each judging window, as many as FILE has. `judge.py` compares weights alone, for tools
whose weights can be read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from judge import interval
from machine import machine_line
from numpy.typing import NDArray

from q3edge.checkpoint import open_float_model
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.statistics import summarize
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.runtime.session.decoder import Decoder

_LENGTH = 256  # tokens of a window, where no file says otherwise


def main() -> None:
    """Compare everything and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--logits", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    files = {path: np.load(path, mmap_mode="r") for path in options.logits}
    length = min((stored.shape[1] for stored in files.values()), default=_LENGTH)
    with np.load(options.tokens) as stored:
        windows = stored["judging"][:, : length + 1]
    with open_float_model(options.checkpoint) as checkpoint:
        head, states = LogitsHead(checkpoint), hidden_states(checkpoint, windows[:, :-1])
        exact = [head.logits(state).numpy() for state in states]
    print(machine_line())
    found = {str(path): stored[:, : windows.shape[1] - 1] for path, stored in files.items()}
    for name, candidates in [*found.items(), *((str(path), read(path, windows)) for path in options.artifacts)]:
        compared = [
            compare_logits(wanted, np.array(candidate), window[1:])
            for wanted, candidate, window in zip(exact, candidates, windows)
        ]
        result = summarize(compared)
        print(f"{name}: mean KL {interval(result.mean_kl)}, top-1 {interval(result.top1_agreement, 3)}", flush=True)


def read(artifact: Path, windows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Logits [T, V] of each window, a token at a time."""
    decoder = Decoder(artifact)
    for window in windows:
        cache = decoder.new_cache(len(window))
        yield np.concatenate([decoder.forward(token.reshape(1, 1), cache)[0] for token in window[:-1]])


if __name__ == "__main__":
    main()
