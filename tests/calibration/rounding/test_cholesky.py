"""The factorization against LAPACK's, and the same bits on any number of threads."""

from __future__ import annotations

import pytest
import torch

from q3edge.calibration.rounding.cholesky import cholesky_


def hessian(size: int, seed: int = 0) -> torch.Tensor:
    inputs = torch.randn(2 * size, size, generator=torch.Generator().manual_seed(seed))
    return inputs.T @ inputs


@pytest.mark.parametrize("size", [1, 5, 127, 128, 129, 300, 1300])
def test_equals_lapack(size: int) -> None:
    matrix = hessian(size)
    expected = torch.linalg.cholesky(matrix.double())
    assert cholesky_(matrix)
    assert (matrix - expected).norm() < 1e-5 * expected.norm()
    assert torch.equal(matrix, matrix.tril())


@pytest.mark.parametrize("size", [257, 1300])
def test_the_number_of_threads_changes_no_bit(size: int) -> None:
    matrix, found = hessian(size), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(matrix.clone())
        assert cholesky_(found[-1])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("place", [0, 130, 299])
def test_a_matrix_that_is_not_positive_is_refused(place: int) -> None:
    matrix = hessian(300)
    matrix[place, place] = -1
    assert not cholesky_(matrix)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(5, 3), (140, 3), (140, 130), (299, 129)])
def test_a_matrix_that_is_not_finite_is_refused_whatever_the_library_says(
    place: tuple[int, int], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenBLAS factors it into NaN and reports success."""

    def trusting(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor, _ = honest(matrix)
        return factor, torch.zeros((), dtype=torch.int32)

    honest = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", trusting)
    matrix = hessian(300)
    matrix[place] = matrix[place[::-1]] = value
    assert not cholesky_(matrix)


def test_a_factor_that_is_not_finite_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(matrix, float("nan")), torch.zeros((), dtype=torch.int32)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", lying)
    assert not cholesky_(hessian(5))
