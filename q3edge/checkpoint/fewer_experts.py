"""`FewerExperts`: a model whose routers choose fewer experts a token than it was trained with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import Qwen3Config
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import UsageError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor


@dataclass(frozen=True, slots=True)
class FewerExperts:
    """Weight source with the weights of `model`, and a configuration of its own."""

    model: WeightSource
    config: Qwen3Config

    def scheme(self, name: str) -> Scheme | None:
        """Scheme of tensor `name`; None if it is float."""
        return self.model.scheme(name)

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read float32 values as the model does."""
        return self.model.read(name, rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> QuantizedTensor:
        """Read codes and scales as the model does."""
        return self.model.read_quantized(name, rows)


def choosing(model: WeightSource, experts: int | None) -> WeightSource:
    """Weights of `model` with so many experts a token (None: as many as it was trained with).

    UsageError: it has no experts, or chooses fewer itself: more than it was trained with would be slower and no better.
    """
    moe = model.config.moe
    if experts is None or (moe is not None and experts == moe.num_experts_per_tok):
        return model
    if moe is None:
        raise UsageError("--experts-per-token: the model has no experts; leave it out")
    if experts > moe.num_experts_per_tok:
        raise UsageError(
            f"--experts-per-token {experts}: the model was trained with {moe.num_experts_per_tok}, and more would be "
            "slower and no better; give fewer"
        )
    return FewerExperts(model, model.config.choosing(experts))
