"""bitsandbytes through transformers: nf4, fp4, double quantization, int8; and FP8, which transformers reads itself.

transformers quantizes to FP8 on GPUs alone: the floats and scales of blocks are made here, as Qwen's checkpoints have
them, and read by it.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional
from contract import main
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

_BLOCK = 64


def write(source: str, folder: Path, **settings: Any) -> None:
    """Quantize and save."""
    settings = {"bnb_4bit_compute_dtype": torch.float32, **settings}
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, device_map="cpu", quantization_config=BitsAndBytesConfig(**settings)
    )
    model.save_pretrained(folder)


def values(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that the library dequantizes, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    found = {}
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            weight = layer.weight
            if weight.dtype == torch.int8:
                found[f"{name}.weight"] = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
            else:
                weight.quant_state.dtype = torch.float32
                found[f"{name}.weight"] = functional.dequantize_4bit(weight.data, weight.quant_state)
    return found


def write_fp8(source: str, folder: Path) -> None:
    """Write 8-bit floats with a scale for each block."""
    folder.mkdir(parents=True)
    tensors = load_file(Path(source) / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weights = tensors[name].float()
        rows, width = weights.shape
        blocks = weights.reshape(rows // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
        scales = blocks.abs().amax((1, 3)) / 448
        floats = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        tensors[name], tensors[f"{name}_scale_inv"] = floats.reshape(rows, width), scales
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [_BLOCK, _BLOCK]}
    config = json.loads((Path(source) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


def values_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that transformers dequantizes where there is no GPU."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    return {name: tensor for name, tensor in model.state_dict().items() if name.endswith("_proj.weight")}


if __name__ == "__main__":
    four = partial(write, load_in_4bit=True)
    nf4 = partial(four, bnb_4bit_quant_type="nf4")
    main(
        version("bitsandbytes"),
        {
            "nf4": (nf4, values),
            "double": (partial(nf4, bnb_4bit_use_double_quant=True), values),
            "fp4": (partial(four, bnb_4bit_quant_type="fp4"), values),
            "int8": (partial(write, load_in_8bit=True), values),
            "FP8": (write_fp8, values_fp8),
        },
    )
