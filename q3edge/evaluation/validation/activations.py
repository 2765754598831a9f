"""`ActivationRounding`: whether the error of rounded activations can be told apart from that of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from q3edge.evaluation.validation.graph_file import read_graph

_INT8_ONLY = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")
_ROUNDED = ("accuracy_level", 4)
_TWO_BIT_EXPERTS = ("expert_weight_bits", 2)  # computed from tables of products, at any accuracy_level


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
        fixed = {node.op_type for node in nodes if node.op_type in _INT8_ONLY or _has(node, *_TWO_BIT_EXPERTS)}
        return cls(tuple(sorted(fixed)), any(_has(node, *_ROUNDED) for node in nodes))

    @property
    def inseparable_reason(self) -> str | None:
        """Reason, one sentence, why a run with exact activations cannot separate the errors; None if it can."""
        if self.fixed:
            names = ", ".join(self.fixed)
            return f"{names} compute with int8 activations only, onnxruntime has no exact variant of them"
        if not self.switchable:
            return "no matrix product rounds its activations, so all error is the weights'"
        return None


def _has(node: onnx.NodeProto, attribute: str, value: int) -> bool:
    return any(found.name == attribute and found.i == value for found in node.attribute)
