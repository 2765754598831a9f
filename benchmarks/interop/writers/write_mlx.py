"""mlx-lm: its own conversion, and mlx.core's dequantization of the result, in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from contract import main

_SCALES = ".scales"


def write(source: str, folder: Path, bits: int) -> None:
    """Convert with groups of 32."""
    command = [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", source, "--mlx-path", str(folder), "-q"]
    subprocess.run([*command, "--q-bits", str(bits), "--q-group-size", "32"], check=True)


def values(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the layers, dequantized."""
    settings = json.loads((folder / "config.json").read_text())["quantization"]
    tensors = mx.load(str(folder / "model.safetensors"))
    found = {}
    for name in (name.removesuffix(_SCALES) for name in tensors if name.endswith(f"_proj{_SCALES}")):
        scales, biases = (tensors[f"{name}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        whole = mx.dequantize(tensors[f"{name}.weight"], scales, biases, settings["group_size"], settings["bits"])
        found[f"{name}.weight"] = torch.from_numpy(np.array(whole))
    return found


if __name__ == "__main__":
    main(version("mlx-lm"), {f"{bits}bits": (partial(write, bits=bits), values) for bits in (3, 4, 6, 8)})
