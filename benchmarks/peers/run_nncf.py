"""NNCF on OpenVINO: int4 asymmetric, AWQ and scale estimation on the calibration tokens, as optimum-intel calls it.

The embedding, which a tied head shares, becomes 8-bit by NNCF's own default.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from contract import Job, file_bytes, float_tensors, main
from numpy.typing import NDArray
from optimum.intel import OVModelForCausalLM

_AWQ = "awq_mul"  # NNCF's name of the Multiply that undoes a rescaled matrix where nothing else can absorb it


def run(job: Job, group: int) -> None:
    """Export, compress, save, and evaluate what became of every matrix."""
    model = OVModelForCausalLM.from_pretrained(job.checkpoint, export=True, load_in_8bit=False, compile=False).model
    ids = job.calibration()
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=1.0,
        group_size=group,
        awq=True,
        scale_estimation=True,
        dataset=nncf.Dataset([_inputs(window) for window in ids.numpy()]),
        subset_size=len(ids),
    )
    target = job.work / "openvino_model.xml"
    ov.save_model(compressed, target, compress_to_fp16=False)
    job.stop()
    written = file_bytes([target, target.with_suffix(".bin")])
    tensors, rescaled = _read(job, target)
    job.finish(
        tensors,
        package="nncf",
        bytes_as_written=written,
        bytes_on_disk=written,
        float_embedding=False,
        note=f"openvino {ov.__version__.split('-')[0]}; {rescaled} matrices rescaled at run time by AWQ",
    )


def _inputs(window: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    length = len(window)
    return {
        "input_ids": window[None],
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length)[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def _read(job: Job, path: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Tensors, and how many matrices had a run-time factor on their input (folded back into the matrix here)."""
    tensors, rescaled = float_tensors(job.checkpoint), 0
    nodes = {node.get_friendly_name(): node for node in ov.Core().read_model(path).get_ordered_ops()}
    for name in tensors:
        module = f"__module.{name.removesuffix('.weight')}/"
        if name.endswith("norm.weight"):
            values = _constant_input(nodes[module + "aten::mul/Multiply_1"])
        elif name.startswith("model.embed"):
            values = _evaluate(nodes[module + "ov_ext::embedding/Gather"].input_value(0))
        else:
            node = nodes[module + "ov_ext::linear/MatMul"]
            values = _evaluate(node.input_value(1))
            source = node.input_value(0).get_node()
            if _AWQ in source.get_friendly_name():
                values = values * _constant_input(source).reshape(1, -1)
                rescaled += 1
        tensors[name] = torch.from_numpy(values).reshape(tensors[name].shape)
    return tensors, rescaled


def _constant_input(node: ov.Node) -> NDArray[np.float32]:
    """The input of a Multiply that is no activation."""
    for value in node.input_values():
        below = value.get_node()
        while below.get_type_name() == "Convert":
            below = below.input_value(0).get_node()
        if below.get_type_name() == "Constant":
            return np.asarray(below.get_data(), np.float32).reshape(-1)
    raise SystemExit(f"{node.get_friendly_name()}: neither input is constant")


def _evaluate(output: ov.Output) -> NDArray[np.float32]:
    """Values of a part of the graph that has no inputs: codes, zero points and scales folded."""
    part = ov.Model([ov.opset13.result(output)], [], "part")
    compiled = ov.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([])[0], np.float32)


if __name__ == "__main__":
    main({f"g{group}": partial(run, group=group) for group in (32, 64)})
