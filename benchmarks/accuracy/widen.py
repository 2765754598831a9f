"""The same function in a wider checkpoint, so that groups its width does not divide can be judged.

    python benchmarks/accuracy/widen.py CHECKPOINT OUT --hidden 768 --heads 12 --kv-heads 4

New channels and heads are zeros. RMSNorm averages over more channels then, which its weight and epsilon take back;
q_norm and k_norm, whose width stays, get that epsilon too. A row of 576 weights in groups of 256 is what its first 576
columns are in a row of 768: two whole groups and a quarter of one. Bytes are those of the wider model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from q3edge.architecture.tensors import tensor_shapes
from q3edge.artifact.side_files import GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from q3edge.checkpoint import open_float_model

_BLOCK_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")


def main() -> None:
    """Read, pad, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--kv-heads", type=int, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    for name in (GENERATION_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
        shutil.copy(options.checkpoint / name, options.out / name)
    raw = json.loads((options.checkpoint / "config.json").read_text())
    share = raw["hidden_size"] / options.hidden
    wider = raw | {
        "hidden_size": options.hidden, "num_attention_heads": options.heads, "num_key_value_heads": options.kv_heads,
        "rms_norm_eps": raw["rms_norm_eps"] * share, "torch_dtype": "float32",
    }  # fmt: skip
    (options.out / "config.json").write_text(json.dumps(wider, indent=1) + "\n")
    with open_float_model(options.checkpoint) as source:
        tensors = {
            name: _padded(torch.from_numpy(source.read(name)), name, wider, share**0.5)
            for name in tensor_shapes(source.config)
        }
    save_file(tensors, options.out / "model.safetensors", metadata={"format": "pt"})


def _padded(values: torch.Tensor, name: str, config: Mapping[str, Any], factor: float) -> torch.Tensor:
    """`values`, zeros behind them in every axis that grew; the norms over the hidden width times `factor`."""
    heads, kv_heads = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    rows = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "o_proj": config["hidden_size"]}
    rows |= {"down_proj": config["hidden_size"]}
    columns = {"o_proj": heads, "down_proj": config["intermediate_size"]}
    shape: tuple[int, ...]
    if name.endswith(_BLOCK_NORMS):
        shape, values = (config["hidden_size"],), values * factor
    elif values.ndim == 1:
        return values
    else:
        module = name.split(".")[-2]
        shape = rows.get(module, values.shape[0]), columns.get(module, config["hidden_size"])
    padded = torch.zeros(shape)
    padded[tuple(slice(0, size) for size in values.shape)] = values
    return padded


if __name__ == "__main__":
    main()
