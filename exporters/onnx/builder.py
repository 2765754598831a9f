"""`GraphBuilder`: a thin layer over onnx-ir's tape that gives nodes stable, readable names.

Provides naming, scopes, constants and functions, for any model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from q3edge.version import VERSION

OPSET = 21
INT8_CACHE_OPSET = 24  # the first that has TensorScatter
IR_VERSION = 10
MICROSOFT = "com.microsoft"
FUNCTIONS = "q3edge"  # the domain of functions that a model brings along


class GraphBuilder:
    """Recorder of nodes and initializers in the order of the forward pass."""

    def __init__(self, opset: int = OPSET, *, is_function: bool = False) -> None:
        """Start a graph, or with `is_function` a function's body, with Constant nodes in place of initializers."""
        self._opset, self._is_function = opset, is_function
        self._tape = Tape()
        self._root = self._tape  # the only one with initializers
        self._scopes: list[str] = []
        self._used: Counter[str] = Counter()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._functions: dict[str, ir.Function] = {}

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
        """Add a node with one output, which has the node's name."""
        name = self._node_name(op_type)
        return self._tape.op(op_type, inputs, attributes, domain=domain, name=name, output=ir.val(name))

    def call(self, name: str, build: Callable[..., ir.Value], *inputs: ir.Value) -> ir.Value:
        """Call `build(builder, *inputs)` as a function of the model, stored once; onnxruntime inlines it.

        A name stands for one `build`: that of its first call.
        """
        if name not in self._functions:
            body = GraphBuilder(self._opset, is_function=True)
            parameters = [ir.val(parameter) for parameter in list(signature(build).parameters)[1:]]
            graph = body._graph(parameters, [build(body, *parameters)], name)
            self._functions[name] = ir.Function(FUNCTIONS, name, graph=graph, attributes=[])
        return self.op(name, *inputs, domain=FUNCTIONS)

    def op_into(
        self, outputs: Sequence[ir.Value], op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> None:
        """Add a node whose outputs exist already, such as those of the graph."""
        self._tape.op_multi_out(
            op_type, inputs, attributes, domain=domain, name=self._node_name(op_type), outputs=outputs
        )

    def split(self, x: ir.Value, sizes: Sequence[int]) -> tuple[ir.Value, ...]:
        """Cut the last axis into parts of the given sizes."""
        name = self._node_name("Split")
        outputs = [ir.val(f"{name}/{i}") for i in range(len(sizes))]
        self._tape.op_multi_out("Split", [x, self.int64(*sizes)], {"axis": -1}, name=name, outputs=outputs)
        return tuple(outputs)

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a named tensor to the graph."""
        return self._root.initializer(tensor)

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Add a small unnamed constant; equal ones are stored once."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array, name=f"constant_{len(self._constants)}")
            self._constants[key] = self.op("Constant", value=tensor) if self._is_function else self.initializer(tensor)
        return self._constants[key]

    def int64(self, *values: int) -> ir.Value:
        """Add a constant int64 vector, such as a shape, axes or sizes."""
        return self.constant(np.array(values, np.int64))

    def float32(self, value: float) -> ir.Value:
        """Add a constant float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str) -> ir.Model:
        """Make the model of the finished graph and the functions that it calls."""
        return ir.Model(
            self._graph(inputs, outputs, name),
            ir_version=IR_VERSION,
            producer_name="q3edge",
            producer_version=VERSION,
            functions=list(self._functions.values()),
        )

    def _graph(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str) -> ir.Graph:
        opsets = {"": self._opset, MICROSOFT: 1} | ({FUNCTIONS: 1} if self._functions else {})
        return ir.Graph(
            inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._root.initializers,
            opset_imports=opsets,
            name=name,
        )

    def _node_name(self, op_type: str) -> str:
        name = "/".join(("", *self._scopes, op_type))
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name]}"
