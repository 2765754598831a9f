"""`OrderedMatrix`: integer codes whose columns may be in groups by an order of their own (desc_act, actorder)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from q3edge.checkpoint.matrix import IntegerMatrix, Parts
from q3edge.checkpoint.tensor_files import Expected
from q3edge.errors import InputError
from q3edge.quantization.scheme import Scheme


class OrderedMatrix(IntegerMatrix):
    """Matrix of integer codes; a part, which may be absent, has the group of each column.

    may_be_unset: a part of nothing but -1 means that there is no order.
    """

    may_be_unset = False

    def __init__(self, parts: Parts, shape: tuple[int, int], bits: int, group_size: int, order: str) -> None:
        super().__init__(parts, shape, bits, group_size)
        self._order = order

    @property
    def expected_order(self) -> Mapping[str, Expected]:
        """The part with the order as it is expected, if it is there."""
        return {self._order: (("I32",), self.shape[1:])} if self._order in self.parts.stored else {}

    @cached_property
    def group_of_column(self) -> NDArray[np.int64] | None:
        """Group of each column where they are not in order; None: neighbours share one."""
        if self._order not in self.parts.stored:
            return None
        groups = self.parts.read(self._order).astype(np.int64)
        if self.may_be_unset and (groups == -1).all():
            return None
        if groups.min() < 0 or groups.max() >= self.shape[1] // self.group_size:
            raise InputError(f"{self.parts.where(self._order)}: a group that scales do not have; the file is damaged")
        in_order = np.arange(self.shape[1]) // self.group_size
        return None if (groups == in_order).all() else groups

    @property
    def scheme(self) -> Scheme | None:
        """Scheme with these codes; None too where columns are in an order of their own."""
        return None if self.group_of_column is not None else super().scheme

    @property
    def why_not(self) -> str:
        """Reason for which no scheme holds the codes."""
        in_order = self.group_of_column is None
        return super().why_not if in_order else "its columns are in an order of their own (desc_act)"

    def values(self, rows: slice) -> NDArray[np.float32]:
        """Read rows start:stop as float32 [n, K]: (code - zero point) * scale of the column's group."""
        groups = self.group_of_column
        if groups is None:
            return super().values(rows)
        found = self.integers(rows)
        middle = np.float32(1 << (self.bits - 1))
        zero_points = middle if found.zero_points is None else found.zero_points.astype(np.float32)[:, groups]
        return (found.codes.astype(np.float32) - zero_points) * found.scales[:, groups]
