"""`GraphBuilder`: a thin layer over onnx-ir's tape that gives nodes stable, readable names, and values short ones.

Provides naming, scopes and constants, for any model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from q3edge.version import VERSION

OPSET = 23  # the first that has RMSNormalization
INT8_CACHE_OPSET = 24  # the first that has TensorScatter
IR_VERSION = 11  # the first with opset 23
MICROSOFT = "com.microsoft"


class GraphBuilder:
    """Recorder of nodes and initializers in the order of the forward pass."""

    def __init__(self, opset: int = OPSET) -> None:
        self._opset = opset
        self._tape = Tape()
        self._root = self._tape  # the only one with initializers
        self._scopes: list[str] = []
        self._used: Counter[str] = Counter()
        self._values = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes made inside with `name`."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def branch(self, name: str, build: Callable[[], Sequence[ir.Value]]) -> ir.Graph:
        """Record the nodes that `build` adds, and the values it returns, as a separate graph for an If."""
        outer, self._tape = self._tape, Tape()
        with self.scope(name):
            outputs = build()
        nodes, self._tape = self._tape.nodes, outer
        return ir.Graph([], outputs, nodes=nodes, name=name)

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        name = self._node_name(op_type)
        return self._tape.op(op_type, inputs, attributes, domain=domain, name=name, output=self._value())

    def folded(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node over constants: onnxruntime computes it once and removes it, so its value's name will do."""
        output = self._value()
        return self._tape.op(op_type, inputs, attributes, name=output.name, output=output)

    def op_into(
        self, outputs: Sequence[ir.Value], op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> None:
        """Add a node whose outputs exist already, such as those of the graph."""
        self._tape.op_multi_out(
            op_type, inputs, attributes, domain=domain, name=self._node_name(op_type), outputs=outputs
        )

    def split(self, x: ir.Value, sizes: Sequence[int]) -> tuple[ir.Value, ...]:
        """Cut the last axis into parts of the given sizes."""
        outputs = [self._value() for _ in sizes]
        self.op_into(outputs, "Split", x, self.int64(*sizes), axis=-1)
        return tuple(outputs)

    def largest(self, x: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
        """Find the `count` largest values of the last axis, and their places."""
        values, places = self._value(), self._value()
        self.op_into([values, places], "TopK", x, self.int64(count), axis=-1)
        return values, places

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a named tensor to the graph."""
        return self._root.initializer(tensor)

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Add a small unnamed constant; equal ones are stored once."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(ir.tensor(array, name=f"c{len(self._constants)}"))
        return self._constants[key]

    def int64(self, *values: int) -> ir.Value:
        """Add a constant int64 vector, such as a shape, axes or sizes."""
        return self.constant(np.array(values, np.int64))

    def float32(self, value: float) -> ir.Value:
        """Add a constant float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str) -> ir.Model:
        """Make the model of the finished graph."""
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._root.initializers,
            opset_imports={"": self._opset, MICROSOFT: 1},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="q3edge", producer_version=VERSION)

    def _value(self) -> ir.Value:
        """Make a numbered value; a node has the readable name, and a value's is stored at least twice."""
        self._values += 1
        return ir.val(f"v{self._values}")

    def _node_name(self, op_type: str) -> str:
        name = "/".join(("", *self._scopes, op_type))
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name]}"
