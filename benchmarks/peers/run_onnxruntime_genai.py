"""onnxruntime-genai's model builder: int4 for the CPU, its default and its k_quant algorithms."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import onnx
import torch
from contract import Job, config, file_bytes, float_tensors, main
from numpy.typing import NDArray
from onnx import numpy_helper


def run(job: Job, *options: str) -> None:
    """Build with the command its documentation gives, then read the MatMulNBits initializers back."""
    target = job.work / "onnx"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(job.checkpoint), "-o", str(target)]
    command += ["-p", "int4", "-e", "cpu", "-c", str(job.work / "cache")]
    subprocess.run([*command, *(["--extra_options", *options] if options else [])], check=True)
    job.stop()
    model = onnx.load(target / "model.onnx")
    stored = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    tensors, wasted, bits = _read(job, model, stored)
    written = file_bytes([target / "model.onnx", target / "model.onnx.data"])
    rotary = stored["cos_cache"].nbytes + stored["sin_cache"].nbytes
    job.finish(
        tensors,
        package="onnxruntime-genai",
        bytes_as_written=written,
        bytes_on_disk=written - wasted,
        float_embedding=False,
        note=f"scales are float32: {wasted / 1e6:.1f} MB less as float16; matrices by bits: {bits}; "
        f"includes {rotary / 1e6:.1f} MB of rotary tables",
    )


def _read(job: Job, model: onnx.ModelProto, stored: dict[str, NDArray]) -> tuple[dict, int, dict[int, int]]:
    """Tensors, bytes that float32 scales take more than float16 ones would, and matrices per width of the codes."""
    tensors = float_tensors(job.checkpoint)
    shape = config(job.checkpoint)
    query, key = (shape[name] * shape["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    wasted, counts = 0, {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        matrix, scales, bits = _dequantize(node, stored)
        wasted += scales.nbytes - 2 * scales.size
        counts[bits] = counts.get(bits, 0) + 1
        path = node.name.strip("/").split("/")
        if path[0] == "lm_head":
            tensors["model.embed_tokens.weight" if shape["tie_word_embeddings"] else "lm_head.weight"] = matrix
            continue
        prefix, module = f"model.{path[1]}.", path[3]
        if module == "qkv_proj":
            parts = matrix.split([query, key, key])
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts):
                tensors[f"{prefix}self_attn.{name}.weight"] = part
        else:
            tensors[f"{prefix}{path[2].replace('attn', 'self_attn')}.{module}.weight"] = matrix
    gathers = [node for node in model.graph.node if node.op_type.startswith("Gather") and "embed" in node.name]
    if [node.op_type for node in gathers] != ["GatherBlockQuantized"] or not shape["tie_word_embeddings"]:
        raise SystemExit(f"embedding: {gathers}; this script reads the table that the head shares only")
    if len(gathers[0].input) < 3:
        raise SystemExit("the builder wrote a GatherBlockQuantized without scales, a graph that onnxruntime refuses")
    return tensors, wasted, counts


def _dequantize(node: onnx.NodeProto, stored: dict[str, NDArray]) -> tuple[torch.Tensor, NDArray, int]:
    attributes = {entry.name: entry.i for entry in node.attribute}
    rows, width, bits, block = (attributes[name] for name in ("N", "K", "bits", "block_size"))
    scales = stored[node.input[2]].reshape(rows, -1)
    codes = _unpack(stored[node.input[1]].reshape(rows, -1), bits)[:, :width]
    zero_points = np.full_like(scales, 1 << (bits - 1))
    if len(node.input) > 3 and node.input[3]:
        zero_points = _unpack(stored[node.input[3]].reshape(rows, -1), bits)[:, : scales.shape[1]]
    expand = np.arange(width) // block
    values = (codes.astype(np.float32) - zero_points[:, expand]) * scales[:, expand].astype(np.float32)
    return torch.from_numpy(values), scales, bits


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Low bits first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


if __name__ == "__main__":
    main(
        {
            "default": run,
            "asymmetric": lambda job: run(job, "is_symmetric=false"),
            "k_quant": lambda job: run(job, "algo_config=k_quant"),
        }
    )
