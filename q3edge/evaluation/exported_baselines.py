"""Baselines that are ONNX models of another exporter, made by it in an environment of its own and run here.

`OPTIMUM_PYTHON` names the interpreter of an environment with optimum-onnx, which needs an older transformers than most
have; without it, this process's own is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.kv_cache import KVCacheSpec
from q3edge.errors import InputError, ResourceError
from q3edge.machine.cpu import default_threads, int8_products_saturate

OPTIMUM_PYTHON = "Q3EDGE_OPTIMUM_PYTHON"  # environment variable
MODEL_FILE = "model_quantized.onnx"
_PACKAGES = ("optimum-onnx", "optimum", "transformers", "accelerate", "torch", "onnxruntime", "onnx")
_VERSIONS = f"""
import json
from importlib.metadata import PackageNotFoundError, version
def found(name):
    try: return version(name)
    except PackageNotFoundError: return None
print(json.dumps({{name: found(name) for name in {_PACKAGES!r}}}))
"""
_SECONDS = 3600.0  # for an export, after which it is given up


@dataclass(frozen=True, slots=True)
class ExportedBaseline:
    """Format that another program exports.

    script: what its interpreter runs, with a checkpoint and a folder to fill.
    """

    name: str
    formats: str
    script: str

    def check(self) -> None:
        """Raise ResourceError if no environment with the exporter is known."""
        self.versions()

    def versions(self) -> dict[str, str]:
        """Versions of the exporter's packages, as its own interpreter tells them.

        ResourceError: there is no such interpreter, or it lacks optimum-onnx.
        """
        python = _interpreter()
        try:
            said = subprocess.run(
                [python, "-I", "-c", _VERSIONS], capture_output=True, text=True, check=True, timeout=60
            )
            found: dict[str, str | None] = json.loads(said.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise ResourceError(f"{python}: is no Python that runs ({error}); correct {OPTIMUM_PYTHON}") from None
        if found["optimum-onnx"] is None:
            raise ResourceError(
                f"this needs an environment with optimum-onnx: python -m venv ENV, ENV/bin/pip install optimum-onnx, "
                f"and {OPTIMUM_PYTHON}=ENV/bin/python"
            )
        return {name: version for name, version in found.items() if version is not None}

    def make(self, checkpoint: Path, folder: Path) -> Path:
        """Export `checkpoint` into `folder`; returns the path of the model. InputError: the exporter failed."""
        script = Path(__file__).with_name(self.script)
        command = [_interpreter(), "-I", str(script), str(checkpoint.resolve()), str(folder)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=environment
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{checkpoint}: optimum did not export it within an hour") from None
        model = folder / MODEL_FILE
        if done.returncode or not model.exists():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["it wrote no model"]
            raise InputError(f"{checkpoint}: optimum does not export it ({last[0][:300]})")
        return model


def _interpreter() -> str:
    return os.environ.get(OPTIMUM_PYTHON) or sys.executable


@dataclass
class ExportedCache:
    """KV cache: keys and values as the model gave them, and the number of tokens in them."""

    past: dict[str, NDArray[np.float32]]
    length: int = 0


class ExportedDecoder:
    """Decoder of a plain ONNX export, in place of an artifact's: the cache goes in and comes out, one row."""

    def __init__(self, model: Path, config: Qwen3Config, threads: int | None = None) -> None:
        """Load the model. InputError: onnxruntime refuses it, or it has inputs of another kind."""
        self.config = config
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        options.log_severity_level = 4
        if int8_products_saturate():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types
            raise InputError(f"{model}: onnxruntime cannot load it ({' '.join(str(error).split())[:300]})") from None
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]
        if "logits" not in self._outputs or "input_ids" not in self._inputs:
            raise InputError(f"{model}: expected input_ids and logits, found {', '.join(sorted(self._inputs))[:300]}")

    def new_cache(self, capacity: int, batch_size: int = 1) -> ExportedCache:
        """Empty cache; it grows by itself."""
        spec = KVCacheSpec.of(self.config)
        empty = np.zeros((batch_size, spec.kv_heads, 0, spec.head_dim), np.float32)
        return ExportedCache({name: empty for name in self._inputs if name.startswith("past_key_values.")})

    def forward(self, input_ids: NDArray[np.int64], cache: ExportedCache, *, keep: int = 1) -> NDArray[np.float32]:
        """Append int64 [1, S] to `cache`; logits float32 [1, keep, V] of the last positions, all S where keep = 0."""
        stop = cache.length + input_ids.shape[1]
        feeds: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(cache.length, stop)[None],
            **cache.past,
        }
        given = {name: value for name, value in feeds.items() if name in self._inputs}
        found = dict(zip(self._outputs, self._session.run(None, given)))
        cache.past = {name: found[name.replace("past_key_values", "present")] for name in cache.past}
        cache.length = stop
        logits: NDArray[np.float32] = found["logits"]
        return logits[:, -keep:] if keep else logits


EXPORTED: Mapping[str, ExportedBaseline] = {
    found.name: found
    for found in (
        ExportedBaseline(
            "optimum-int8", "int8 weights, a scale a column; uint8 activations, one scale a tensor", "optimum_export.py"
        ),
    )
}
