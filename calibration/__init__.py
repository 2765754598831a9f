"""How weights are rounded. A solver is a pure function (weights [N, K], scheme) -> QuantizedTensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from q3edge.errors import UsageError
from q3edge.scheme import Scheme
from q3edge.tensor import QuantizedTensor

Solver = Callable[[NDArray[np.float32], Scheme], QuantizedTensor]

METHODS = ("rtn",)


def solver_for(method: str) -> Solver:
    """The solver a recipe names; UsageError for a name that is not in METHODS."""
    if method != "rtn":
        raise UsageError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    from calibration.rtn import round_to_nearest

    return round_to_nearest
