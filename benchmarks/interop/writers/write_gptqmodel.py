"""GPTQModel: GPTQ, symmetric or not, with columns by activation, 8 bits; and AWQ in the layout of AutoAWQ."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

# Its pool of one worker on two cores is smaller than the two that it asks of it.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from contract import by_identity, main, windows
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.quantization import FORMAT, METHOD
from gptqmodel.version import __version__


def write(source: str, folder: Path, **settings: Any) -> None:
    """Quantize and save."""
    model = GPTQModel.load(source, QuantizeConfig(**settings), device="cpu")
    texts = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows(source, 16, 128)]
    model.quantize(texts, batch_size=1)
    model.save(str(folder))


def values(folder: Path, backend: BACKEND) -> dict[str, torch.Tensor]:
    """What its layers in plain torch compute, in float16, as they want it."""
    model = GPTQModel.load(str(folder), device="cpu", backend=backend, dtype=torch.float16)
    return by_identity(model.model, torch.float16)


if __name__ == "__main__":
    gptq, awq = (partial(values, backend=backend) for backend in (BACKEND.TORCH, BACKEND.TORCH_AWQ))
    main(
        __version__,
        {
            "sym": (partial(write, bits=4, group_size=32, sym=True, desc_act=False), gptq),
            "asym": (partial(write, bits=4, group_size=32, sym=False, desc_act=False), gptq),
            "v2": (partial(write, bits=4, group_size=64, sym=False, desc_act=False, format=FORMAT.GPTQ_V2), gptq),
            "desc": (
                partial(write, bits=4, group_size=32, sym=False, desc_act=True, act_group_aware=False), gptq
            ),
            "8bits": (partial(write, bits=8, group_size=-1, sym=True, desc_act=False, act_group_aware=False), gptq),
            "awq": (partial(write, bits=4, group_size=32, sym=False, method=METHOD.AWQ, format=FORMAT.GEMM), awq),
        },
    )  # fmt: skip
