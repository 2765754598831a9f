"""llama.cpp: its own quantizer, and its own code that makes floats of the result, as `llama-quantize` does both."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
from contract import main

_GGUF_MODEL = Path(__file__).resolve().parents[2] / "peers" / "gguf_model.py"
_PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")


def write(source: str, folder: Path, ftype: str) -> None:
    """Quantize, in a process of its own: scripts of peers have another module `contract`."""
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, str(_GGUF_MODEL), source, str(folder / "model.gguf"), ftype], check=True)


def values(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that llama.cpp dequantizes into a file of float32."""
    plain = folder.parent / "float32.gguf"
    subprocess.run([sys.executable, str(_GGUF_MODEL), str(folder / "model.gguf"), str(plain), "F32"], check=True)
    found = {}
    for tensor in gguf.GGUFReader(plain).tensors:
        parts = tensor.name.split(".")
        if len(parts) == 4 and parts[2] in _PARTS:
            shape = [int(size) for size in reversed(tensor.shape)]
            name = f"model.layers.{parts[1]}.{_PARTS[parts[2]]}.weight"
            found[name] = torch.from_numpy(np.array(tensor.data, np.float32).reshape(shape))
    plain.unlink()
    return found


if __name__ == "__main__":
    main(version("llama-cpp-python"), {kind: (partial(write, ftype=kind), values) for kind in TYPES})
