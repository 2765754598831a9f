"""Value of code 0 of each group, which formats without zero points store as a float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from q3edge.artifact import Notice
from q3edge.errors import InputError
from q3edge.quantization.tensor import QuantizedTensor

Number = TypeVar("Number", np.float16, np.float32)


@dataclass
class Minimums:
    """Groups whose stored minimum is rounded, of all, and the largest error as a share of the scale."""

    groups: int = 0
    inexact: int = 0
    largest: float = 0.0

    def of(self, block: QuantizedTensor, where: str, dtype: type[Number]) -> NDArray[Number]:
        """Compute -scale * zero point of each group, [N, K/G] in `dtype`, and count what that rounds.

        InputError: values that float16 does not hold; where: file and tensor.
        """
        scales = block.scales.astype(np.float32)
        middle = block.scheme.implicit_zero_point if block.zero_points is None else block.zero_points.astype(np.float32)
        exact = -np.float32(middle) * scales
        stored = exact.astype(dtype)
        errors = np.abs(stored.astype(np.float32) - exact)
        if not np.isfinite(errors).all():
            raise InputError(
                f"{where}: values of code 0 that float16 does not hold; choose a format without zero points"
            )
        self.groups += errors.size
        self.inexact += int(np.count_nonzero(errors))
        steps = np.divide(errors, np.abs(scales), out=np.zeros_like(errors), where=scales != 0)
        self.largest = max(self.largest, float(steps.max(initial=0)))
        return stored

    def notices(self) -> Iterator[Notice]:
        """Yield a notice of what was rounded, if anything was."""
        if self.inexact:
            detail = (
                f"of {self.groups} groups have a minimum that float16 does not hold: their weights moved by up to "
                f"{self.largest:.4f} of a step between codes"
            )
            yield Notice("minimum-rounded", self.inexact, detail)
