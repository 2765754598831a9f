"""llama.cpp: its quantizer on a GGUF file, with an importance matrix of the calibration tokens.

llama-cpp-python brings the library (built from source); `llama_model_quantize` is the function behind
`llama-quantize`. `llama-imatrix` reads text, not tokens, so the matrix is computed here as it does: the mean square of
every input channel of every matrix, over the calibration windows.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

import gguf
import numpy as np
import torch
from contract import Job, file_bytes, float_tensors, main
from gguf_model import FTYPES, gguf_name, quantize, write_float
from transformers import AutoModelForCausalLM


def run(job: Job, ftype: str) -> None:
    """Write the float GGUF, compute (or take) the importance matrix, quantize, read the result back."""
    source, target = job.work / "float.gguf", job.work / f"{ftype}.gguf"
    write_float(job.checkpoint, source)
    matrix, note = _importance(job)
    quantize(source, target, ftype, matrix)
    job.stop()
    source.unlink()
    reader = gguf.GGUFReader(target)
    names = {gguf_name(name): name for name in float_tensors(job.checkpoint)}
    tensors, types = {}, defaultdict(int)
    for entry in reader.tensors:
        values = gguf.dequantize(entry.data, entry.tensor_type)
        tensors[names[entry.name]] = torch.from_numpy(np.array(values, np.float32))
        types[entry.tensor_type.name] += int(entry.n_bytes)
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(types.items(), key=lambda item: -item[1]))
    written = file_bytes([target])
    job.finish(
        tensors,
        package="llama-cpp-python",
        bytes_as_written=written,
        bytes_on_disk=written,
        float_embedding=False,
        note=f"{sizes}; {note}",
    )


def _importance(job: Job) -> tuple[dict[str, np.ndarray], str]:
    """GGUF name -> float32 mean squares per input channel. Kept beside OUT: it is the same for every type."""
    kept = job.out.parent / "llama-cpp-imatrix.npz"
    if kept.exists():
        with np.load(kept) as stored:
            matrix = {name: stored[name] for name in stored.files if not name.endswith("seconds")}
            seconds, cpu_before = float(stored["seconds"]), float(stored["cpu_seconds"])
        job.started -= seconds
        job.cpu_seconds += cpu_before
        return matrix, f"{seconds:.0f} s of the time for the importance matrix"
    begin, cpu = time.perf_counter(), time.process_time()
    model = AutoModelForCausalLM.from_pretrained(job.checkpoint, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}

    def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str) -> None:
        values = inputs[0].reshape(-1, inputs[0].shape[-1]).square().sum(0, dtype=torch.float64)
        sums[name] = sums.get(name, 0) + values

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(partial(add, name=gguf_name(name + ".weight")))
    ids = job.calibration()
    with torch.no_grad():
        for window in ids:
            model.model(window[None], use_cache=False)
    matrix = {name: (values / ids.numel()).float().numpy() for name, values in sums.items()}
    seconds = time.perf_counter() - begin
    np.savez(kept, seconds=seconds, cpu_seconds=time.process_time() - cpu, **matrix)
    return matrix, f"{seconds:.0f} s of the time for the importance matrix"


if __name__ == "__main__":
    main({ftype: partial(run, ftype=ftype) for ftype in FTYPES})
