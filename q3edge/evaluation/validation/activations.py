"""`ActivationRounding`: whether the error of rounded activations can be told apart from that of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from q3edge.evaluation.validation.graph_file import read_graph

_INT8_ONLY = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")


@dataclass(frozen=True, slots=True)
class ActivationRounding:
    """Rounding of activations to int8 in the matrix products of an ONNX model.

    fixed: operators that can do nothing else; switchable: some product has an accuracy_level that a run can lower.
    """

    fixed: tuple[str, ...]
    switchable: bool

    @classmethod
    def read(cls, model_file: Path) -> ActivationRounding:
        """Read the nodes, not the weights. InputError: not an ONNX model."""
        nodes = read_graph(model_file).node
        fixed = sorted({node.op_type for node in nodes} & set(_INT8_ONLY))
        return cls(tuple(fixed), any(_rounds_activations(node) for node in nodes))

    @property
    def inseparable_reason(self) -> str | None:
        """Reason, one sentence, why a run with exact activations cannot separate the errors; None if it can."""
        if self.fixed:
            names = ", ".join(self.fixed)
            return f"{names} compute with int8 activations only, onnxruntime has no exact variant of them"
        if not self.switchable:
            return "no matrix product rounds its activations, so all error is the weights'"
        return None


def _rounds_activations(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "accuracy_level" and attribute.i == 4 for attribute in node.attribute)
