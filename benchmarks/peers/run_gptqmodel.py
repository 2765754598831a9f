"""GPTQModel on the calibration tokens, asymmetric; everything else its default (group-aware activation order).

The embedding and a tied head stay float.
"""

from __future__ import annotations

import os
from functools import partial

# Its pool of one worker on two cores is smaller than the two that it asks of it.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from contract import Job, calibration_batches, file_bytes, float_tensors, group_bytes, linear_names, main
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization import FORMAT
from safetensors.torch import load_file


def run(job: Job, group: int) -> None:
    """Quantize, save in the format that stores zero points as they are, read it back."""
    settings = QuantizeConfig(bits=4, group_size=group, sym=False, format=FORMAT.GPTQ_V2)
    model = GPTQModel.load(str(job.checkpoint), settings, device="cpu")
    windows = [{name: tensor[0] for name, tensor in batch.items()} for batch in calibration_batches(job)]
    model.quantize(windows, batch_size=4)
    target = job.work / "model"
    model.save(str(target))
    job.stop()
    files = sorted(target.glob("*.safetensors"))
    stored = {name: tensor for path in files for name, tensor in load_file(path).items()}
    tensors = float_tensors(job.checkpoint)
    for name in linear_names(tensors):
        module = name.removesuffix("weight")
        scales = stored[module + "scales"].float()  # [groups, N]
        codes = _unpack(stored[module + "qweight"].T).T  # [K, N]
        zero_points = _unpack(stored[module + "qzeros"])[:, : scales.shape[1]]
        groups = stored[module + "g_idx"].long()
        tensors[name] = ((codes - zero_points[groups]) * scales[groups]).T
    job.finish(
        tensors,
        package="gptqmodel",
        bytes_as_written=file_bytes(files),
        bytes_on_disk=group_bytes(job.checkpoint, bits=4, group=group, zero_point_bits=4),
        float_embedding=True,
    )


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """float32 [R, 8 C] codes from int32 [R, C], low bits first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((packed[..., None] >> shifts) & 15).reshape(len(packed), -1).float()


if __name__ == "__main__":
    main({f"g{group}-asym": partial(run, group=group) for group in (32, 64)})
