"""model.onnx through OpenVINO's ONNX frontend, on its CPU plugin in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from contract import Stepped, run
from numpy.typing import NDArray
from plain_graph import PastAndPresent


class OpenVINO(Stepped):
    """A compiled model, whose outputs are fed back as they come."""

    def __init__(self, folder: Path) -> None:
        model = openvino.Core().read_model(folder / "onnx" / "model.onnx")
        self._compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._outputs = [output.any_name for output in self._compiled.outputs]
        type_name = self._compiled.input("past_key_values.0.key").element_type.get_type_name()
        self._type = "int8" if type_name == "i8" else "float32"
        self.version, self._folder = openvino.__version__.split("-")[0], folder

    def start(self, capacity: int) -> None:
        """Begin a sequence."""
        self._cache = PastAndPresent(self._folder, self._type, capacity)

    def step(self, ids: list[int]) -> NDArray[np.float32]:
        """Append `ids`."""
        found = self._compiled(self._cache.feed(ids))
        return self._cache.take({name: np.array(found[name]) for name in self._outputs})


if __name__ == "__main__":
    run(OpenVINO)
