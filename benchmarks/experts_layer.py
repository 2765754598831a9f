"""What calibrating one layer of experts takes: seconds, CPU seconds, peak memory, and what all layers would take.

    python benchmarks/experts_layer.py CHECKPOINT [--layer 0] [--layers 48] [--rows 64] [--length 512] [--format int4]

Solves one layer of a mixture of experts (GPTQ, channel scales and sweeps, as `quantize --method gptq`) for random
tokens, and takes the float model's states through it, as a calibration does. All layers of a model are alike, so their
number times this is what a calibration takes, beside the embedding and the head.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine_line

from q3edge.calibration.layers.layer import LayerSolver
from q3edge.calibration.layers.layerwise import held_out_rows
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.checkpoint import open_float_model
from q3edge.machine.cpu import has_fast_bfloat16
from q3edge.progress import unheard
from q3edge.quantization.recipe import Recipe
from q3edge.reference.model import embed


def main() -> None:
    """Print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--layers", type=int, default=48, help="of the model that is projected to")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--format", default="int4")
    options = parser.parse_args()
    print(machine_line(), flush=True)
    source = open_float_model(options.checkpoint)
    config = source.config
    schemes = Recipe.for_format(options.format).for_model(config).resolve(config)
    tokens = Tokens(options.rows, options.length, held_out_rows(options.rows), has_fast_bfloat16())
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (options.rows, options.length))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = StateStream(folder / "before.bin", tokens, config.hidden_size)
        after = StateStream(folder / "after.bin", tokens, config.hidden_size)
        for part in tokens.parts:
            before.write(part, embed(source, ids[part]))
        began, cpu = time.perf_counter(), time.process_time()
        result = LayerSolver(source, options.layer, schemes, tokens, folder, unheard).solve(before, after)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    loss, nearest = (np.mean([getattr(r, n) for r in result.reports.values()]) for n in ("loss", "rounding_loss"))
    of = f"layer {options.layer}, {len(result.tensors)} matrices, {tokens.count} tokens"
    print(f"{of}: {seconds:.0f} s, {cpu:.0f} CPU s, peak memory {peak:.2f} GiB")
    print(f"mean held-out loss {loss / nearest:.3f} of rounding to nearest")
    print(f"{options.layers} such layers: {options.layers * cpu / 7200:.1f} h on two cores, by CPU seconds")


if __name__ == "__main__":
    main()
