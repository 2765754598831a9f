"""Cholesky factorization whose bits do not depend on the number of threads, as those of LAPACK's do on some CPUs.

Blocks of columns, one after another (Golub & Van Loan 2013, section 4.2.6): a block is factored, the rows below it are
solved for, and the rest is updated. Each piece of the last two is computed by one thread.
"""

from __future__ import annotations

import torch

from q3edge.calibration.rounding.moments import add_products
from q3edge.reference.parallel import ordered_map

_BLOCK = 128  # columns: small enough that LAPACK takes one thread for them
_ROWS = 1024  # of those below a block, solved for at a time


def cholesky_(matrix: torch.Tensor) -> bool:
    """Replace a symmetric float32 matrix [K, K] by its lower factor; returns whether that succeeded.

    False: it is not positive definite or not finite, and its values are lost.
    """
    size = len(matrix)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        factor, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if failed or not factor.isfinite().all():  # OpenBLAS does not report NaN off the diagonal
            return False
        matrix[start:stop, start:stop] = factor
        below = matrix[stop:, start:stop]

        def solve(rows: torch.Tensor, upper: torch.Tensor = factor.T) -> None:
            rows.copy_(torch.linalg.solve_triangular(upper, rows, upper=True, left=False))

        for _ in ordered_map(solve, torch.split(below, _ROWS)):
            pass
        add_products(matrix[stop:, stop:], below.T, -1)
    matrix.tril_()
    return True
