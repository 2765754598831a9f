"""llama.cpp: its quantizer on a GGUF file, with an importance matrix of the calibration tokens.

llama-cpp-python brings the library (built from source); `llama_model_quantize` is the function behind
`llama-quantize`. `llama-imatrix` reads text, not tokens, so the matrix is computed here as it does: the mean square of
every input channel of every matrix, over the calibration windows. The file holds no tokenizer.
"""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
from contract import Job, config, file_bytes, float_tensors, main
from transformers import AutoModelForCausalLM

_FTYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q4_K_M": 15, "IQ4_NL": 25}  # enum llama_ftype
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def run(job: Job, ftype: str) -> None:
    """Write the float GGUF, compute (or take) the importance matrix, quantize, read the result back."""
    source, target = job.work / "float.gguf", job.work / f"{ftype}.gguf"
    _write_float(job, source)
    matrix, note = _importance(job)
    _quantize(source, target, ftype, matrix)
    job.stop()
    source.unlink()
    reader = gguf.GGUFReader(target)
    names = {_gguf_name(name): name for name in float_tensors(job.checkpoint)}
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


def _gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    if name in fixed:
        return fixed[name] + ".weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}.weight"


def _write_float(job: Job, path: Path) -> None:
    """As convert_hf_to_gguf.py writes a Qwen3 model: matrices float16, vectors float32."""
    shape = config(job.checkpoint)
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_vocab_size(shape["vocab_size"])
    for name, tensor in float_tensors(job.checkpoint).items():
        values = tensor.float().numpy()
        writer.add_tensor(_gguf_name(name), values.astype(np.float16) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
            module.register_forward_pre_hook(partial(add, name=_gguf_name(name + ".weight")))
    ids = job.calibration()
    with torch.no_grad():
        for window in ids:
            model.model(window[None], use_cache=False)
    matrix = {name: (values / ids.numel()).float().numpy() for name, values in sums.items()}
    seconds = time.perf_counter() - begin
    np.savez(kept, seconds=seconds, cpu_seconds=time.process_time() - cpu, **matrix)
    return matrix, f"{seconds:.0f} s of the time for the importance matrix"


def _quantize(source: Path, target: Path, ftype: str, matrix: dict[str, np.ndarray]) -> None:
    entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()  # the last one, all zero, ends the list
    kept = {name: np.ascontiguousarray(values, np.float32) for name, values in matrix.items()}
    for entry, (name, values) in zip(entries, kept.items()):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = _FTYPES[ftype], torch.get_num_threads()
    settings.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if code:
        raise SystemExit(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    main({ftype: partial(run, ftype=ftype) for ftype in _FTYPES})
