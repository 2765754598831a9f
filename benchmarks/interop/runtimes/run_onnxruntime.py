"""model.onnx in plain onnxruntime, on the CPU or by OpenVINO's execution provider where that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from contract import Stepped, run
from numpy.typing import NDArray
from plain_graph import PastAndPresent

OPENVINO = "OpenVINOExecutionProvider"


class Plain(Stepped):
    """A session, whose outputs are fed back as they come."""

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if "vnni" not in Path("/proc/cpuinfo").read_text():  # else releases before 1.31 abort with int8-dynamic
            options.add_session_config_entry("session.x64quantprecision", "1")  # exact int8 sums
        provider = OPENVINO if OPENVINO in ort.get_available_providers() else "CPUExecutionProvider"
        self.version, self._folder = ort.__version__, folder
        self._session = ort.InferenceSession(folder / "onnx" / "model.onnx", options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise SystemExit(f"{provider} is not used: {self._session.get_providers()}")
        self._outputs = [output.name for output in self._session.get_outputs()]
        types = {value.name: value.type for value in self._session.get_inputs()}
        self._type = "int8" if types["past_key_values.0.key"] == "tensor(int8)" else "float32"

    def start(self, capacity: int) -> None:
        """Begin a sequence."""
        self._cache = PastAndPresent(self._folder, self._type, capacity)

    def step(self, ids: list[int]) -> NDArray[np.float32]:
        """Append `ids`."""
        found = self._session.run(self._outputs, self._cache.feed(ids))
        return self._cache.take(dict(zip(self._outputs, found)))


if __name__ == "__main__":
    run(Plain)
