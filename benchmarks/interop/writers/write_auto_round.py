"""AutoRound in its own format: symmetric, and asymmetric with one layer of 8 bits.

Its version 0.16.1 cannot write AWQ's layout on a CPU.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from auto_round import AutoRound
from contract import by_identity, main, windows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

_BATCH, _GROUP = 4, 32
_WIDER = {"model.layers.0.mlp.down_proj": {"bits": 8}}


def write(source: str, folder: Path, *, layout: str, symmetric: bool, layers: dict[str, Any] | None = None) -> None:
    """Tune for two iterations and save."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ids = windows(source, 2 * _BATCH, 128)
    batches = [torch.stack(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
    tool = AutoRound(
        model,
        AutoTokenizer.from_pretrained(source),
        bits=4,
        group_size=_GROUP,
        sym=symmetric,
        dataset=[{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in batches],
        nsamples=len(ids),
        seqlen=128,
        batch_size=_BATCH,
        iters=2,
        device_map="cpu",
        enable_torch_compile=False,
        layer_config=layers,
    )
    tool.quantize()
    tool.save_quantized(str(folder), format=layout, inplace=True)


def values(folder: Path) -> dict[str, torch.Tensor]:
    """What its layers compute in transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
    return _as_computed(by_identity(model))


def _as_computed(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values in float16 where all are such: the layers multiply in it, and widen to float32 at their end."""
    narrow = {name: value.half() for name, value in values.items()}
    return narrow if all(torch.equal(narrow[name].float(), value) for name, value in values.items()) else values


def values_one_less(folder: Path) -> dict[str, torch.Tensor]:
    """What its layers in plain torch compute: for asymmetric ones transformers wants another package of its makers."""
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    stored = load_file(folder / "model.safetensors")
    found = {}
    for name in (name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")):
        parts = {part: stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")}
        width = parts["scales"].shape[0] * _GROUP
        layer = QuantLinear(32 * len(parts["qweight"]) // width, _GROUP, width, parts["scales"].shape[1], False)
        layer.load_state_dict(parts, strict=False)
        found[f"{name}.weight"] = layer(torch.eye(width)).T.detach()
    return _as_computed(found)


if __name__ == "__main__":
    main(
        version("auto-round"),
        {
            "sym": (partial(write, layout="auto_round", symmetric=True), values),
            "asym": (partial(write, layout="auto_round", symmetric=False, layers=_WIDER), values),
            "gptq": (partial(write, layout="auto_round:auto_gptq", symmetric=False, layers=_WIDER), values_one_less),
            "gptqmodel": (partial(write, layout="auto_round:gptqmodel", symmetric=False), values),
        },
    )
