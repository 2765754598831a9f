"""What MNN's own runtime predicts: the logits behind every token, one token at a time, for accuracy/as_run.py.

    python logits_mnn.py CONVERTED tokens.npz -o logits.npy          (in the environment of mnn.txt)

CONVERTED is what `speed_mnn.py convert` wrote. logits: float32 [windows, tokens, vocabulary].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import MNN.llm
import numpy as np


def main() -> None:
    """Read the first tokens of each judging window."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("converted", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--length", type=int, default=256, help="tokens of each window")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = MNN.llm.create(str(options.converted / "config.json"))
    model.set_config({"thread_num": options.threads, "reuse_kv": False})
    model.load()
    with np.load(options.tokens) as stored:
        windows = stored["judging"][:, : options.length]
    logits = None
    for number, window in enumerate(windows):
        model.reset()
        for position, token in enumerate(window.tolist()):
            found = np.asarray(model.forward([token]).read()).ravel()
            if logits is None:
                shape = (*windows.shape, found.size)
                logits = np.lib.format.open_memmap(options.output, "w+", np.float32, shape)
            logits[number, position] = found
        print(f"window {number + 1} of {len(windows)}", flush=True)


if __name__ == "__main__":
    main()
