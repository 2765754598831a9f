"""llm-compressor: rounding without data by its preset schemes, and GPTQ in the order of activations."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contract import main, windows
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM

_GROUPS_OF_32 = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
_BLOCKS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [64, 64]}


def write(source: str, folder: Path, **settings: Any) -> None:
    """Round without data and save."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    oneshot(model=model, recipe=QuantizationModifier(ignore=["lm_head"], **settings))
    model.save_pretrained(folder, save_compressed=True)


def write_gptq(source: str, folder: Path, actorder: str) -> None:
    """Quantize by GPTQ and save."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    weights = {**_GROUPS_OF_32, "actorder": actorder}
    data = Dataset.from_list([{"input_ids": ids.tolist()} for ids in windows(source, 16, 128)])
    recipe = GPTQModifier(config_groups={"all": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])
    oneshot(model=model, recipe=recipe, dataset=data, num_calibration_samples=len(data), max_seq_length=128)
    model.save_pretrained(folder, save_compressed=True)


def values(folder: Path) -> dict[str, torch.Tensor]:
    """Weights that the library decompresses, in the model's own bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.bfloat16)
    from compressed_tensors.compressors import decompress_module

    found = {}
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            if "weight_scale" in dict(layer.named_parameters()):
                decompress_module(layer)
            found[f"{name}.weight"] = layer.weight.detach()
    return found


if __name__ == "__main__":
    groups = {"config_groups": {"all": {"targets": ["Linear"], "weights": _GROUPS_OF_32}}}
    blocks = {"config_groups": {"all": {"targets": ["Linear"], "weights": _BLOCKS}}}
    main(
        version("llmcompressor"),
        {
            "W4A16": (partial(write, targets="Linear", scheme="W4A16"), values),
            "asym": (partial(write, **groups), values),
            "actorder": (partial(write_gptq, actorder="weight"), values),
            "W8A16": (partial(write, targets="Linear", scheme="W8A16"), values),
            "W8A8": (partial(write, targets="Linear", scheme="W8A8"), values),
            "FP8_DYNAMIC": (partial(write, targets="Linear", scheme="FP8_DYNAMIC"), values),
            "blocks": (partial(write, **blocks), values),
        },
    )
