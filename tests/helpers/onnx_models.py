"""Helpers of the exporter's tests: random quantized tensors and a plain loop around an exported decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from q3edge.architecture.kv_cache import ATTENTION_MASK, INPUT_IDS, LOGITS, NUM_LOGITS_TO_KEEP, KVCacheSpec
from q3edge.artifact import MODEL_FILE
from q3edge.exporters.onnx.export import export_decoder
from q3edge.formats import ExpertOperators
from q3edge.machine.cpu import int8_products_saturate
from q3edge.quantization.scales import storable_scales
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.runtime.session.logits_to_keep import with_logits_to_keep
from tests.helpers.models import InMemoryWeights

Past = dict[str, NDArray[np.float32]]


def random_quantized(rows: int, width: int, scheme: Scheme, rng: np.random.Generator) -> QuantizedTensor:
    """Random tensor: any codes, scales and zero points the scheme allows; values of about width ** -0.5."""
    groups = scheme.groups(width)
    size = 2.0 / scheme.max_code * width**-0.5
    scales = (rng.uniform(0.5, 2, (rows, groups)) * rng.choice([-1, 1], (rows, groups)) * size).astype(np.float32)
    low, high = (0, scheme.max_code) if scheme.bits < 8 else (64, 192)
    zero_points = None if scheme.symmetric else rng.integers(low, high + 1, (rows, groups)).astype(np.uint8)
    codes = rng.integers(0, scheme.max_code + 1, (rows, width)).astype(np.uint8)
    return QuantizedTensor(codes, storable_scales(scales, scheme).astype(np.float16), zero_points, scheme)


def quantized_model(scheme_for: Callable[[str], Scheme | None], seed: int = 0, **overrides: Any) -> InMemoryWeights:
    """A random model whose matrices have the schemes that `scheme_for` gives to their names."""
    rng = np.random.default_rng(seed)
    source = InMemoryWeights.random(seed, **overrides)
    for name in source.tensors:
        shape = source.read(name).shape
        scheme = scheme_for(name) if len(shape) == 2 else None
        if scheme is not None:
            source.tensors[name] = random_quantized(shape[0], shape[1], scheme, rng)
    return source


def dequantized(source: InMemoryWeights) -> InMemoryWeights:
    """The same model with float32 weights."""
    return InMemoryWeights(source.config, {name: source.read(name) for name in source.tensors})


def session(model: Path | bytes, folder: Path | None = None) -> onnxruntime.InferenceSession:
    """An onnxruntime session on one thread, without log messages; `folder`: of the weights of a model as bytes."""
    options = onnxruntime.SessionOptions()
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if int8_products_saturate():  # as q3edge.runtime.session.decoder does
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class ExportedDecoder:
    """An exported source that is run; past and present are plain arrays that grow."""

    def __init__(
        self, source: InMemoryWeights, folder: Path, accuracy_level: int = 4, experts: ExpertOperators = "qmoe"
    ) -> None:
        export_decoder(source, folder, accuracy_level=accuracy_level, experts=experts)
        self.session = session(folder / MODEL_FILE)
        self._file = folder / MODEL_FILE
        self.cache = KVCacheSpec.of(source.config)

    @cached_property
    def _asked(self) -> onnxruntime.InferenceSession:
        """The session that takes the number of positions with logits, as q3edge's runtime makes it."""
        return session(with_logits_to_keep(self._file.read_bytes()), self._file.parent)

    def empty_past(self, batch: int) -> Past:
        names = [name for layer in self.cache.layers for name in self.cache.past(layer)]
        return {name: np.zeros(self.cache.shape(batch, 0), np.float32) for name in names}

    def step(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64] | None = None,
        past: Past | None = None,
        keep: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], Past]:
        """Run one step; returns logits and the next step's past. The default mask is for rows of equal length."""
        past = self.empty_past(len(ids)) if past is None else past
        if mask is None:
            length = next(iter(past.values())).shape[2]
            mask = np.ones((len(ids), length + ids.shape[1]), np.int64)
        feed = {INPUT_IDS: ids, ATTENTION_MASK: mask, **past}
        session = self.session
        if keep is not None:
            feed[NUM_LOGITS_TO_KEEP], session = keep, self._asked
        names = [LOGITS, *(name for layer in self.cache.layers for name in self.cache.present(layer))]
        logits, *present = session.run(names, feed)
        return logits, dict(zip(past, present))


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Relative error: largest difference over the largest magnitude."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
