"""Baselines on the same checkpoint: torch's dynamic int8 and bitsandbytes' nf4, fp4 and int8.

The float reference runs layer by layer with every matrix product made by the library's own module, so the numbers are
the library's, whatever the model's size. Which matrices a library leaves float is as transformers applies it: torch
rounds the head too, bitsandbytes does not, and none rounds the embedding.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, LM_HEAD, head_tensor, tensor_shapes
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import ResourceError
from q3edge.evaluation.distance.chain import batches
from q3edge.evaluation.distance.references import window_states
from q3edge.evaluation.distance.windows import Window
from q3edge.machine.extras import install_line
from q3edge.reference.weights import read_tensor

_BLOCK = 64  # weights that share a scale in bitsandbytes' 4-bit types, its default
_FLOAT32, _HALF = 4, 2  # bytes
Product = Callable[[torch.Tensor], torch.Tensor]  # [..., K] -> [..., N]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Format of another library. weight_bytes: of a matrix [N, K]; float_bytes: of a weight that stays float.

    make: builds the library's module for float32 weights [N, K]. ResourceError: the library is not installed.
    """

    name: str
    formats: str
    package: str
    make: Callable[[torch.Tensor], Product]
    weight_bytes: Callable[[int, int], int]
    float_bytes: int
    rounds_head: bool

    def model_bytes(self, config: Qwen3Config) -> int:
        """Bytes of all weights as the library stores them."""
        shapes = tensor_shapes(config)
        total = 0
        for name, shape in shapes.items():
            rounded = name.endswith("_proj.weight") or (name == LM_HEAD and self.rounds_head)
            total += self.weight_bytes(*shape) if rounded else self.float_bytes * math.prod(shape)
        if config.tie_word_embeddings and self.rounds_head:  # the head no longer is the embedding, but a copy
            total += self.weight_bytes(*shapes[EMBEDDING])
        return total

    def check(self) -> None:
        """Raise ResourceError if the library is not installed, with how to install it."""
        if self.package == "torch":
            _require_dynamic_quantization()
        else:
            _bitsandbytes()


class BaselineDecoder:
    """Decoder of a baseline, in place of an artifact's, for windows known beforehand.

    Their hidden states are computed at construction, each layer rounded once for a batch of windows; a call looks up
    those of a window that begins with the tokens read so far. Attention is causal, so what follows changes nothing.
    """

    def __init__(self, baseline: Baseline, source: WeightSource, windows: Sequence[Window]) -> None:
        """Compute the hidden states of all windows. ResourceError: the library is not installed."""
        baseline.check()
        self.config = source.config
        self._baseline, self._windows = baseline, windows
        self._hidden: list[torch.Tensor] = [torch.empty(0)] * len(windows)
        lengths = [len(window.inputs) for window in windows]
        for batch in batches(lengths, [""] * len(windows)):
            with _products_by(baseline.make):
                states = window_states(source, [windows[number] for number in batch], label=baseline.name)
            for number, row in zip(batch, states):
                self._hidden[number] = row.clone()
        # One matrix, however large, and not blocks of LogitsHead: torch's scale is one for the whole table.
        self._head = read_tensor(source, head_tensor(source.config))

    def new_cache(self, capacity: int, batch_size: int = 1) -> list[int]:
        """Empty cache: the token ids read so far."""
        return []

    def forward(self, input_ids: NDArray[np.int64], cache: list[int], *, keep: int = 1) -> NDArray[np.float32]:
        """Append int64 [1, S] to `cache`; logits float32 [1, keep, V] of the last positions, of all S where keep = 0.

        ValueError: no window begins with these tokens.
        """
        start = len(cache)
        cache += input_ids[0].tolist()
        hidden = self._states(np.array(cache))[-keep or start : len(cache)]
        with _products_by(self._baseline.make) if self._baseline.rounds_head else nullcontext():
            return linear(hidden, self._head).float().numpy()[None]

    def _states(self, read: NDArray[np.int64]) -> torch.Tensor:
        for window, hidden in zip(self._windows, self._hidden):
            if np.array_equal(window.inputs[: len(read)], read):
                return hidden[: len(read)]
        raise ValueError("a baseline was computed for other windows")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings: the libraries' (deprecation of torch.ao, casts to float16) are known and always the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _products_by(make: Callable[[torch.Tensor], Product]) -> Iterator[None]:
    """Compute every matrix product of the block by what `make` gives for its matrix."""
    with quiet(), _Products(make):
        yield


class _Products(TorchFunctionMode):
    """Replacement of `linear` while active, so that the reference's layers are used unchanged.

    A matrix is given to the library once and kept as long as the reference keeps the float one: one layer at a time.
    """

    def __init__(self, make: Callable[[torch.Tensor], Product]) -> None:
        super().__init__()
        self._make, self._made = make, WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace calls of `linear` (see torch.overrides); torch turns the mode off inside: the library's own run."""
        if func is not linear:
            return func(*args, **(kwargs or {}))
        values, weights = args
        if weights not in self._made:
            self._made[weights] = self._make(weights)
        return self._made[weights](values).float()


def _require_dynamic_quantization() -> None:
    if not hasattr(torch.ao, "quantization"):
        raise ResourceError("this torch has no torch.ao.quantization any more; install an older one for torch-int8")


def _torch_int8(weights: torch.Tensor) -> Product:
    model = torch.nn.Sequential(_float_linear(weights))
    quantize: Any = torch.ao.quantization.quantize_dynamic
    made: Product = quantize(model, {torch.nn.Linear}, dtype=torch.qint8)
    return made


def _bitsandbytes_4bit(kind: str) -> Callable[[torch.Tensor], Product]:
    def make(weights: torch.Tensor) -> Product:
        library = _bitsandbytes()
        rows, width = weights.shape
        module = library.nn.Linear4bit(width, rows, bias=False, quant_type=kind, compute_dtype=torch.float32)
        module.weight = library.nn.Params4bit(
            weights, requires_grad=False, quant_type=kind, blocksize=_BLOCK, compress_statistics=False
        )
        made: Product = module.to("cpu").eval()  # `to` rounds
        return made

    return make


def _bitsandbytes_int8(weights: torch.Tensor) -> Product:
    library = _bitsandbytes()
    rows, width = weights.shape
    # Input channels beyond 6 stay float16: LLM.int8 (arXiv 2208.07339) as transformers sets it up.
    module = library.nn.Linear8bitLt(width, rows, bias=False, has_fp16_weights=False, threshold=6.0)
    module.weight = library.nn.Int8Params(weights, requires_grad=False, has_fp16_weights=False)
    made: Product = module.to("cpu").eval()  # while training, activations are not rounded on a CPU
    return made


def _bitsandbytes() -> Any:
    try:
        library = import_module("bitsandbytes")
    except ImportError:
        raise ResourceError(f"this needs the package bitsandbytes: {install_line('baselines')}") from None
    logging.getLogger(library.__name__).setLevel(logging.ERROR)  # it logs every cast to float16
    return library


def _float_linear(weights: torch.Tensor) -> torch.nn.Linear:
    rows, width = weights.shape
    module = torch.nn.Linear(width, rows, bias=False, device="meta")
    module.weight = torch.nn.Parameter(weights, requires_grad=False)
    return module


def _four_bit_bytes(rows: int, width: int) -> int:
    return rows * width // 2 + _FLOAT32 * -(-rows * width // _BLOCK)


BASELINES: Mapping[str, Baseline] = {
    found.name: found
    for found in (
        Baseline(
            "torch-int8", "int8 weights, one scale a matrix; int8 activations", "torch", _torch_int8,
            lambda rows, width: rows * width, _FLOAT32, rounds_head=True,
        ),
        Baseline(
            "nf4", "4-bit normal floats, a float32 scale per 64", "bitsandbytes", _bitsandbytes_4bit("nf4"),
            _four_bit_bytes, _HALF, rounds_head=False,
        ),
        Baseline(
            "fp4", "4-bit floats, a float32 scale per 64", "bitsandbytes", _bitsandbytes_4bit("fp4"),
            _four_bit_bytes, _HALF, rounds_head=False,
        ),
        Baseline(
            "bnb-int8", "int8 weights, a scale a row; int8 activations, outliers float16", "bitsandbytes",
            _bitsandbytes_int8, lambda rows, width: rows * width + _FLOAT32 * rows, _HALF, rounds_head=False,
        ),
    )
}  # fmt: skip
