"""llama.cpp: its quantizer on a GGUF file, with an importance matrix of the calibration tokens.

llama-cpp-python brings the library (built from source); `llama_model_quantize` is the function behind
`llama-quantize`. `llama-imatrix` reads text, not tokens, so the matrix is computed here as it does: the mean square of
every input channel of every matrix, over the calibration windows; of an expert, over the tokens that are routed to it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

import gguf
import numpy as np
import torch
from contract import Job, file_bytes, float_tensors, main
from gguf_model import FTYPES, expert_number, gguf_name, quantize, write_float
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
    names: dict[str, list[str]] = defaultdict(list)  # experts of a layer are one tensor there
    for name in sorted(float_tensors(job.checkpoint), key=expert_number):
        names[gguf_name(name)].append(name)
    tensors, types = {}, defaultdict(int)
    for entry in reader.tensors:
        values = torch.from_numpy(np.array(gguf.dequantize(entry.data, entry.tensor_type), np.float32))
        parts = [values] if len(names[entry.name]) == 1 else list(values)
        tensors |= zip(names[entry.name], parts, strict=True)
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
    """GGUF name -> float32 mean squares per input channel, expert after expert where a tensor holds several.

    Kept beside OUT: it is the same for every type.
    """
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
    tokens: dict[str, torch.Tensor] = {}  # of each expert; of a matrix without experts, a single number

    def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str) -> None:
        values = inputs[0].reshape(-1, inputs[0].shape[-1])
        sums[name] = sums.get(name, 0) + values.square().sum(0, dtype=torch.float64)
        tokens[name] = tokens.get(name, 0) + torch.tensor(len(values))

    def add_experts(experts: torch.nn.Module, inputs: tuple[torch.Tensor, ...], layer: str) -> None:
        hidden, chosen, _ = inputs
        number = len(experts.down_proj)
        found = {part: torch.zeros(number, K) for part, K in (("gate", hidden.shape[-1]), ("down", _width(experts)))}
        for expert in range(number):
            read = hidden[(chosen == expert).any(-1)]
            gate, up = torch.nn.functional.linear(read, experts.gate_up_proj[expert]).chunk(2, dim=-1)
            found["gate"][expert] = read.square().sum(0)
            found["down"][expert] = (experts.act_fn(gate) * up).square().sum(0)
        counts = torch.bincount(chosen.flatten(), minlength=number)[:, None]
        for part, source in (("gate", "gate"), ("up", "gate"), ("down", "down")):
            name = gguf_name(f"{layer}.0.{part}_proj.weight")
            sums[name] = sums.get(name, 0) + found[source].double()
            tokens[name] = tokens.get(name, 0) + counts

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(partial(add, name=gguf_name(name + ".weight")))
        elif name.endswith(".mlp.experts"):
            module.register_forward_pre_hook(partial(add_experts, layer=name))
    with torch.no_grad():
        for window in job.calibration():
            model.model(window[None], use_cache=False)
    # As llama-quantize reads it: an expert that no token was routed to has the same importance everywhere.
    means = {name: torch.where(tokens[name] > 0, sums[name] / tokens[name].clamp(min=1), 1) for name in sums}
    matrix = {name: values.flatten().float().numpy() for name, values in means.items()}
    seconds = time.perf_counter() - begin
    np.savez(kept, seconds=seconds, cpu_seconds=time.process_time() - cpu, **matrix)
    return matrix, f"{seconds:.0f} s of the time for the importance matrix"


def _width(experts: torch.nn.Module) -> int:
    return int(experts.down_proj.shape[-1])


if __name__ == "__main__":
    main({ftype: partial(run, ftype=ftype) for ftype in FTYPES})
