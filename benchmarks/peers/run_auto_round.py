"""AutoRound on the calibration tokens: its light and default recipes; the embedding and a tied head stay float.

Both recipes are its command line's: 50 iterations with learning rate 5e-3, and 200 with its own rate.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from auto_round import AutoRound
from contract import Job, calibration_batches, file_bytes, float_tensors, group_bytes, linear_names, main
from transformers import AutoModelForCausalLM, AutoTokenizer

_RECIPES: dict[str, dict[str, Any]] = {"light": {"iters": 50, "lr": 5e-3}, "default": {"iters": 200}}


def run(job: Job, recipe: str, group: int, symmetric: bool) -> None:
    """Tune, copy the rounded weights, save."""
    model = AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype=torch.float32)
    batches = calibration_batches(job)
    tool = AutoRound(
        model,
        AutoTokenizer.from_pretrained(job.checkpoint),
        bits=4,
        group_size=group,
        sym=symmetric,
        dataset=[{name: torch.cat([batch[name] for batch in batches[i : i + 8]]) for name in batches[0]}
                 for i in range(0, len(batches), 8)],
        nsamples=len(batches),
        seqlen=batches[0]["input_ids"].shape[1],
        batch_size=8,
        device_map="cpu",
        enable_torch_compile=False,
        **_RECIPES[recipe],
    )  # fmt: skip
    tuned, _ = tool.quantize()
    tensors, modules = float_tensors(job.checkpoint), dict(tuned.named_modules())
    for name in linear_names(tensors):
        tensors[name] = modules[name.removesuffix(".weight")].weight.detach().clone()
    # Asymmetric 4-bit weights go to the AWQ layout by default, which version 0.16.1 cannot pack on a CPU.
    tool.save_quantized(str(job.work), format="auto_round" if symmetric else "auto_round:auto_gptq", inplace=True)
    job.stop()
    job.finish(
        tensors,
        package="auto-round",
        bytes_as_written=file_bytes(job.work.rglob("*.safetensors")),
        bytes_on_disk=group_bytes(job.checkpoint, bits=4, group=group, zero_point_bits=0 if symmetric else 4),
        float_embedding=True,
        note=f"{_RECIPES[recipe]['iters']} iterations; loaded, so also written, with a float32 embedding",
    )


if __name__ == "__main__":
    main(
        {
            f"{recipe}-g{group}-{'sym' if symmetric else 'asym'}": partial(
                run, recipe=recipe, group=group, symmetric=symmetric
            )
            for recipe in _RECIPES
            for group, symmetric in ((32, False), (64, False), (64, True))
        }
    )
