"""Tuning as part of `quantize`: scales and norms of a quantized folder are trained, kept if held-out KL falls."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.tensors import tensor_shapes
from q3edge.calibration.training.tune import ScaleTuner, TuningResult
from q3edge.checkpoint import Checkpoint, ModelFolder, open_quantized_model
from q3edge.checkpoint.compressed_tensors import QuantizedWriter

_ROWS = 1 << 13  # rows of a table copied at a time


def tune_folder(checkpoint: Checkpoint, folder: Path, token_ids: NDArray[np.int64], held_out: int) -> dict[str, Any]:
    """Replace the weights in `folder` by tuned ones; returns steps and held-out KL before and after tuning."""
    tuned_folder = folder / "tuned"
    with open_quantized_model(folder) as quantized:
        tuned = ScaleTuner(checkpoint, quantized, token_ids, held_out).run()
        tuned_folder.mkdir()
        _write(checkpoint, quantized, tuned, tuned_folder)
    for path in tuned_folder.iterdir():
        path.replace(folder / path.name)
    tuned_folder.rmdir()
    return {"kl_before": tuned.kl_before, "kl_after": tuned.kl_after, "steps": tuned.steps, "held_out": held_out}


def _write(checkpoint: Checkpoint, quantized: ModelFolder, tuned: TuningResult, folder: Path) -> None:
    schemes = {name: quantized.scheme(name) for name in quantized.names()}
    dtypes = {
        name: "F32" if name in tuned.norms else quantized.dtype(name)
        for name, scheme in schemes.items()
        if scheme is None
    }
    with QuantizedWriter(folder, checkpoint.raw_config, schemes, dtypes) as writer:
        for name, shape in tensor_shapes(quantized.config).items():
            if name in tuned.norms:
                writer.add_float(name, tuned.norms[name])
            elif name in tuned.scales:
                writer.add(name, dataclasses.replace(quantized.read_quantized(name), scales=tuned.scales[name]))
            else:
                for start in range(0, shape[0], _ROWS):
                    rows = slice(start, min(start + _ROWS, shape[0]))
                    if schemes[name] is None:
                        writer.add_float(name, quantized.read(name, rows))
                    else:
                        writer.add(name, quantized.read_quantized(name, rows))
