"""Whether the error of a model's rounded activations can be told apart from the error of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from q3edge.errors import InputError

_INT8_ONLY = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")


@dataclass(frozen=True, slots=True)
class ActivationRounding:
    """Which matrix products of an ONNX model round their activations to int8.

    fixed: operators that know nothing else; switchable: some product has an accuracy_level that a run can lower.
    """

    fixed: tuple[str, ...]
    switchable: bool

    @classmethod
    def read(cls, model_file: Path) -> ActivationRounding:
        """Look at the nodes; weights are not read. InputError: not an ONNX model."""
        try:
            nodes = onnx.load(model_file, load_external_data=False).graph.node
        except Exception as error:  # protobuf's DecodeError is not a public class
            raise InputError(f"{model_file}: not an ONNX model ({error}); export again") from None
        fixed = sorted({node.op_type for node in nodes} & set(_INT8_ONLY))
        return cls(tuple(fixed), any(_rounds_activations(node) for node in nodes))

    @property
    def inseparable_reason(self) -> str | None:
        """None if running with exact activations would tell the parts apart; else one sentence why not."""
        if self.fixed:
            names = ", ".join(self.fixed)
            return f"{names} compute with int8 activations only, onnxruntime has no exact variant of them"
        if not self.switchable:
            return "no matrix product rounds its activations, so all error is the weights'"
        return None


def _rounds_activations(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "accuracy_level" and attribute.i == 4 for attribute in node.attribute)
