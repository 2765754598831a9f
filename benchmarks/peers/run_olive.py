"""Olive's own GPTQ pass (olive-ai), asymmetric; the embedding and a tied head stay as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from contract import Job, calibration_batches, file_bytes, float_tensors, group_bytes, linear_names, main
from olive.model import HfModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.pytorch import quant_utils
from olive.passes.pytorch.gptq import Gptq
from safetensors.torch import load_file


def run(job: Job, group: int) -> None:
    """Run the pass and read its safetensors back."""
    # The pass takes the name of a hub data set or a script; this is the function where either arrives.
    quant_utils.get_calibration_dataset = lambda *_: calibration_batches(job)
    settings = {"bits": 4, "group_size": group, "sym": False}
    target = job.work / "model"
    create_pass_from_dict(Gptq, settings, disable_search=True).run(HfModelHandler(str(job.checkpoint)), str(target))
    job.stop()
    files = _weight_files(target)
    stored = {name: tensor for path in files for name, tensor in load_file(path).items()}
    tensors = float_tensors(job.checkpoint)
    for name in linear_names(tensors):
        module = name.removesuffix("weight")
        codes = _unpack(stored[module + "qweight"])[:, : tensors[name].shape[1]]
        scales = stored[module + "scales"].float()
        zero_points = _unpack(stored[module + "qzeros"])[:, : scales.shape[1]]
        steps = codes.reshape(*scales.shape, group) - zero_points[..., None]
        tensors[name] = (steps * scales[..., None]).reshape(codes.shape)
    job.finish(
        tensors,
        package="olive-ai",
        bytes_as_written=file_bytes(files),
        bytes_on_disk=group_bytes(job.checkpoint, bits=4, group=group, zero_point_bits=4),
        float_embedding=True,
    )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.safetensors"))


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """float32 codes, low bits first."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).reshape(len(packed), -1).float()


if __name__ == "__main__":
    main({f"gptq-g{group}": partial(run, group=group) for group in (32, 64)})
