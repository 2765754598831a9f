"""`right_padded`: texts of several lengths as one array, as networks without a cache take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def right_padded(texts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Token ids of all texts, int64 [B, S], shorter ones padded on the right with 0."""
    padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, ids in zip(padded, texts):
        row[: len(ids)] = ids
    return padded
