"""Whether the error of a model's rounded activations can be told apart from the error of its weights."""

from __future__ import annotations

from pathlib import Path

import onnx

from q3edge.errors import InputError

_INT8_ONLY = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")


def inseparable_reason(model_file: Path) -> str | None:
    """None if running with exact activations would tell the parts apart; else one sentence why not.

    InputError: not an ONNX model. Weights are not read.
    """
    try:
        nodes = onnx.load(model_file, load_external_data=False).graph.node
    except Exception as error:  # protobuf's DecodeError is not a public class
        raise InputError(f"{model_file}: not an ONNX model ({error}); export again") from None
    if found := sorted({node.op_type for node in nodes} & set(_INT8_ONLY)):
        return f"{', '.join(found)} compute with int8 activations only, onnxruntime has no exact variant of them"
    if not any(_rounds_activations(node) for node in nodes):
        return "no matrix product rounds its activations, so all error is the weights'"
    return None


def _rounds_activations(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "accuracy_level" and attribute.i == 4 for attribute in node.attribute)
