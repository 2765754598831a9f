"""HQQ: 4-bit codes with float scales and float zero points, fitted to the weights alone (no calibration tokens)."""

from __future__ import annotations

from functools import partial

import torch
from contract import Job, file_bytes, float_tensors, group_bytes, linear_names, main
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from hqq.models.hf.base import AutoHQQHFModel
from transformers import AutoModelForCausalLM


def run(job: Job, group: int) -> None:
    """Quantize the layers' matrices as its README does; the embedding and a tied head stay float16."""
    model = AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype=torch.float16)
    settings = BaseQuantizeConfig(nbits=4, group_size=group, axis=1)
    AutoHQQHFModel.quantize_model(model, quant_config=settings, compute_dtype=torch.float16, device="cpu")
    AutoHQQHFModel.save_quantized(model, str(job.work))
    job.stop()
    tensors = float_tensors(job.checkpoint)
    modules = dict(model.named_modules())
    for name in linear_names(tensors):
        module = modules[name.removesuffix(".weight")]
        if not isinstance(module, HQQLinear):
            raise SystemExit(f"{name}: not quantized")
        tensors[name] = module.dequantize()
    job.finish(
        tensors,
        package="hqq",
        bytes_as_written=file_bytes(job.work.glob("qmodel.pt")),
        bytes_on_disk=group_bytes(job.checkpoint, bits=4, group=group, zero_point_bits=16),
        float_embedding=True,
        note="zero points are float16",
    )


if __name__ == "__main__":
    main({f"g{group}": partial(run, group=group) for group in (32, 64)})
