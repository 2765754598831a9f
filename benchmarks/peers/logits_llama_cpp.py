"""What llama.cpp predicts with a GGUF file: logits behind every token of each judging window, for accuracy/as_run.py.

    python logits_llama_cpp.py model.gguf tokens.npz -o logits.npy          (in the environment of llama-cpp.txt)
    python ../accuracy/as_run.py model.gguf tokens.npz --logits logits.npy  (in q3edge's: computed exactly)

logits: float32 [windows, tokens, vocabulary].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import llama_cpp
import numpy as np

CACHE_TYPES = {"f32": 0, "f16": 1}  # enum ggml_type


def main() -> None:
    """Read the first tokens of each judging window."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--length", type=int, default=128, help="tokens of each window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cache", choices=CACHE_TYPES, default="f16", help="type of the KV cache; f16 is llama.cpp's own"
    )
    options = parser.parse_args()
    with np.load(options.tokens) as stored:
        windows = stored["judging"][:, : options.length]
    length = windows.shape[1]
    cache = CACHE_TYPES[options.cache]
    model = llama_cpp.Llama(
        str(options.model), n_ctx=length, n_batch=length, n_threads=options.threads, logits_all=True, verbose=False,
        type_k=cache, type_v=cache,
    )  # fmt: skip
    logits = None
    for number, window in enumerate(windows):
        model.reset()
        model.eval(window.tolist())
        found = np.array(model.scores[:length], np.float32)
        if logits is None:
            logits = np.lib.format.open_memmap(options.output, "w+", np.float32, (*windows.shape, found.shape[1]))
        logits[number] = found
        print(f"window {number + 1} of {len(windows)}", flush=True)


if __name__ == "__main__":
    main()
