"""One input group of a layer: matrices that share an input are rounded for the tokens seen there.

Makes the choices: how strongly input channels are scaled, and how many sweeps help. Each is made by the loss on
held-out tokens, never by the loss that the solver itself lowered. `q3edge.architecture.blocks` defines the groups;
where their channel scales are folded is in `q3edge.calibration.layers.rounded`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from q3edge.calibration.layers.predicted_work import GroupWork
from q3edge.calibration.rounding.channel_scaling import channel_scale_of
from q3edge.calibration.rounding.gptq import InverseFactor, factorize, round_channels
from q3edge.calibration.rounding.grid import Grid, as_tensor, choose_grid, dequantized, round_to_grid
from q3edge.calibration.rounding.moments import Moments
from q3edge.calibration.rounding.refine import descend, refit_scales
from q3edge.cluster.place import spread
from q3edge.progress import Advance, portion, unheard
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor

EXPONENTS = (0.0, 0.25, 0.35, 0.5, 0.65)  # of a channel's RMS; 0 leaves the channels as they are
SWEEPS = 1
_ROWS = 512  # solved at a time by one thread; fixed, so that results do not depend on the number of threads
SAMPLED_ROWS = 256  # on which the channel scale is chosen
_CANDIDATES = range(SWEEPS + 2)  # for a block of rows: GPTQ, sweeps, rounding to nearest
_COMPARED_BLOCKS = 16  # on which the best candidate is chosen: all of most matrices, a sample of a head's
_INT8_MAX = 127.0


@dataclass(frozen=True, slots=True)
class TensorReport:
    """Rounding report of one matrix; losses are squared output errors on held-out tokens, relative to the output's.

    sweeps: after GPTQ; None where rounding to nearest on the scaled grid was better than GPTQ.
    rounding_loss: of rounding to nearest, loss: of what was kept; both are for the inputs that the matrix really gets.
    """

    scheme: Scheme
    rounding_loss: float
    loss: float
    scaling_exponent: float
    sweeps: int | None
    damping: float
    damping_retries: int
    dead_channels: int

    def to_json(self) -> dict[str, Any]:
        """JSON object for manifests and the work folder, the scheme as `Scheme.to_json` gives it."""
        return asdict(self) | {"scheme": self.scheme.to_json()}


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Rounded tensors of one input group, by name.

    They stand for weights [N, K] times `channel_scale`, float32 [K], by which the input is to be divided.
    """

    tensors: Mapping[str, QuantizedTensor]
    channel_scale: torch.Tensor
    reports: Mapping[str, TensorReport]

    def values(self, field: str, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Values float32 [N, K] of a matrix: dequantized, or those of `weights` where it stays float."""
        rounded = self.tensors.get(field)
        return weights[field] if rounded is None else torch.from_numpy(rounded.dequantize())


class _Candidate(NamedTuple):
    tensor: QuantizedTensor
    loss: float  # summed over held-out tokens


class _RowBlock(NamedTuple):
    """A block of rows: candidates by number; losses of rounding to nearest, and of all zeros (`power`)."""

    candidates: dict[int, _Candidate]
    rounding_loss: float
    power: float


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """Inputs of solving any block of rows of an input group; K is the width of its input."""

    moments: Moments
    factor: InverseFactor

    def loss(self, weights: torch.Tensor, values: torch.Tensor) -> float:
        """Squared output error of `values` [N, K] for `weights` on held-out tokens."""
        error = weights - values
        return float(torch.linalg.vecdot(error @ self.moments.held_out, error).sum())

    def activation_loss(self, weights: torch.Tensor, scheme: Scheme, channel_scale: torch.Tensor) -> float:
        """Squared held-out output error, estimated on a few tokens, of rounding the scaled input; 0 for a float one."""
        if scheme.activations == "float":
            return 0.0
        errors = token_rounding_errors(torch.cat(self.moments.sampled) / channel_scale) * channel_scale
        return float((errors @ weights.T).square().sum()) * self.moments.held_out_tokens / len(errors)

    def gptq(self, weights: torch.Tensor, scheme: Scheme, channel_scale: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        """Round by GPTQ: steps [N, K] and their grid."""
        grid = choose_grid(weights, scheme, self.factor.importance, channel_scale)
        return round_channels(weights, self.factor, grid, scheme), grid


def solve_input_group(
    weights: Mapping[str, torch.Tensor],
    schemes: Mapping[str, Scheme],
    moments: Moments,
    allowed: Callable[[torch.Tensor], torch.Tensor],
    advance: Advance = unheard,
) -> Solution:
    """Round the matrices `weights`, name -> float32 [N, K], that share the input `moments` were taken of.

    allowed: maps a channel scale [K] to the nearest that can be folded into whatever feeds these matrices.
    advance: called as the work goes on, with `choosing` and `solving` of its GroupWork in all.
    """
    work = GroupWork(len(moments.hessian), sum(map(len, weights.values())))
    problem = _Problem(moments, factorize(moments.hessian))
    choosing = portion(advance, work.choosing, len(EXPONENTS))
    exponent, channel_scale = _best_channel_scale(_sampled(weights), schemes, problem, allowed, choosing)
    solved = portion(advance, work.solving, work.rows)
    return _solve_all(weights, schemes, problem, channel_scale, exponent, solved)


def choose_channel_scale(
    sample: Mapping[str, torch.Tensor], schemes: Mapping[str, Scheme], moments: Moments
) -> tuple[float, torch.Tensor]:
    """Choose a channel scale [K] for the input that `moments` were taken of, by a sample of rows [n, K] of each matrix.

    Returns its exponent too. Nothing is scaled that the schemes leave float.
    """
    return _best_channel_scale(sample, schemes, _Problem(moments, factorize(moments.hessian)), lambda scale: scale)


def solve_scaled_group(
    weights: Mapping[str, torch.Tensor],
    schemes: Mapping[str, Scheme],
    moments: Moments,
    exponent: float,
) -> Solution:
    """Round matrices as `solve_input_group` does, whose channels are scaled already, with this `exponent`."""
    problem, ones = _Problem(moments, factorize(moments.hessian)), torch.ones(len(moments.hessian))
    return _solve_all(weights, schemes, problem, ones, exponent, unheard)


def _solve_all(
    weights: Mapping[str, torch.Tensor],
    schemes: Mapping[str, Scheme],
    problem: _Problem,
    channel_scale: torch.Tensor,
    exponent: float,
    solved: Advance,
) -> Solution:
    """Solve every matrix; solved: called with the number of rows of every block."""
    tensors, reports = {}, {}
    for name, matrix in weights.items():
        tensors[name], reports[name] = _solve_matrix(
            matrix.__getitem__, len(matrix), schemes[name], problem, channel_scale, exponent, solved
        )
    return Solution(tensors, channel_scale, reports)


def solve_unscaled(
    read: Callable[[slice], torch.Tensor], rows: int, scheme: Scheme, moments: Moments, advance: Advance = unheard
) -> tuple[QuantizedTensor, TensorReport]:
    """Round one matrix [rows, K] for which no channel scale can be folded; `read` gives float32 blocks of its rows.

    advance: called as the work goes on, with `choosing` and `solving` of its GroupWork in all.
    """
    work = GroupWork(len(moments.hessian), rows)
    problem = _Problem(moments, factorize(moments.hessian))
    advance(work.choosing)
    solved = portion(advance, work.solving, rows)
    return _solve_matrix(read, rows, scheme, problem, torch.ones(len(moments.hessian)), 0.0, solved)


def _best_channel_scale(
    sample: Mapping[str, torch.Tensor],
    schemes: Mapping[str, Scheme],
    problem: _Problem,
    allowed: Callable[[torch.Tensor], torch.Tensor],
    advance: Advance = unheard,
) -> tuple[float, torch.Tensor]:
    """Exponent, and its channel scale, whose GPTQ result on sampled rows has the smallest held-out loss.

    Rounded inputs are included. advance: called with 1 after each exponent.
    """
    rms = problem.factor.importance.sqrt()
    channel_scales = {exponent: allowed(channel_scale_of(rms, exponent)) for exponent in EXPONENTS}
    samples = {
        scheme: torch.cat([rows for name, rows in sample.items() if schemes[name] == scheme])
        for scheme in dict.fromkeys(schemes[name] for name in sample)
    }

    def loss(exponent: float) -> float:
        channel_scale, total = channel_scales[exponent], 0.0
        for scheme, rows in samples.items():
            steps, grid = problem.gptq(rows, scheme, channel_scale)
            total += problem.loss(rows, dequantized(steps, grid)) + problem.activation_loss(rows, scheme, channel_scale)
        return total

    losses = {}
    for found, exponent in zip(spread(loss, list(channel_scales)), channel_scales):
        losses[exponent] = found
        advance(1)
    best = min(losses, key=lambda exponent: losses[exponent])
    return best, channel_scales[best]


def _sampled(matrices: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every n-th row of each matrix, about SAMPLED_ROWS in all."""
    step = max(1, sum(map(len, matrices.values())) // SAMPLED_ROWS)
    return {name: matrix[step // 2 :: step] for name, matrix in matrices.items()}


def spaced_rows(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """Take about `count` rows of a matrix [N, K], evenly spaced."""
    step = max(1, len(matrix) // count)
    return matrix[step // 2 :: step]


def rounds_inputs(schemes: Mapping[str, Scheme]) -> bool:
    """Tell whether any of the schemes rounds the inputs too."""
    return any(scheme.activations != "float" for scheme in schemes.values())


def token_rounding_errors(inputs: torch.Tensor) -> torch.Tensor:
    """Errors [T, K] of rounding each token of float32 [T, K] to int8 by its largest magnitude (int8_per_token)."""
    step = inputs.abs().amax(dim=1, keepdim=True).div_(_INT8_MAX).clamp_min_(torch.finfo(inputs.dtype).tiny)
    return (inputs / step).round_().mul_(step).sub_(inputs)


def sampled_losses(
    matrices: Mapping[str, torch.Tensor],
    schemes: Sequence[Scheme | None],
    moments: Moments,
    channel_scale: torch.Tensor,
) -> list[float]:
    """Held-out losses of GPTQ at each scheme (0 for None, float), on a sample of the rows of `matrices` [N, K].

    Squared output errors of the sampled rows; only comparable between schemes.
    """
    problem = _Problem(moments, factorize(moments.hessian))
    rows = torch.cat([*_sampled(matrices).values()])

    def loss(scheme: Scheme | None) -> float:
        if scheme is None:
            return 0.0
        steps, grid = problem.gptq(rows, scheme, channel_scale)
        return problem.loss(rows, dequantized(steps, grid))

    return list(spread(loss, schemes))


def _solve_matrix(
    read: Callable[[slice], torch.Tensor],
    count: int,
    scheme: Scheme,
    problem: _Problem,
    channel_scale: torch.Tensor,
    exponent: float,
    advance: Advance,
) -> tuple[QuantizedTensor, TensorReport]:
    """Round all `count` rows, block by block, by the candidate with the least held-out loss on a sample of blocks.

    advance: called with the number of rows of every block that is solved.
    """

    def length(start: int) -> int:
        return min(_ROWS, count - start)

    def solve(start: int, numbers: Collection[int]) -> _RowBlock:
        rows = read(slice(start, start + length(start)))
        grid = choose_grid(rows, scheme)
        nearest = problem.loss(rows, dequantized(round_to_grid(rows, grid, scheme), grid))
        power = torch.linalg.vecdot(rows @ problem.moments.held_out, rows).sum()
        found = enumerate(_candidates(rows, scheme, problem, channel_scale))
        candidates = {number: candidate(rows, *rounded) for number, rounded in found if number in numbers}
        return _RowBlock(candidates, nearest, float(power))

    def candidate(rows: torch.Tensor, steps: torch.Tensor, grid: Grid) -> _Candidate:
        return _Candidate(as_tensor(steps, grid, scheme), problem.loss(rows, dequantized(steps, grid)))

    starts = range(0, count, _ROWS)
    compared = starts[:: -(-len(starts) // _COMPARED_BLOCKS)]
    solved = {}
    for block, start in zip(spread(lambda start: solve(start, _CANDIDATES), compared), compared):
        solved[start] = block
        advance(length(start))
    losses = [sum(block.candidates[number].loss for block in solved.values()) for number in _CANDIDATES]
    best = min(_CANDIDATES, key=lambda number: losses[number])
    others = [start for start in starts if start not in solved]
    for block, start in zip(spread(lambda start: solve(start, (best,)), others), others):
        solved[start] = block
        advance(length(start))
    blocks = [solved[start] for start in starts]
    power = max(sum(block.power for block in blocks), torch.finfo(torch.float32).tiny)
    report = TensorReport(
        scheme=scheme,
        rounding_loss=sum(block.rounding_loss for block in blocks) / power,
        loss=sum(block.candidates[best].loss for block in blocks) / power,
        scaling_exponent=exponent,
        sweeps=best if best <= SWEEPS else None,
        damping=problem.factor.damping,
        damping_retries=problem.factor.retries,
        dead_channels=problem.factor.dead_channels,
    )
    return QuantizedTensor.concatenate([block.candidates[best].tensor for block in blocks]), report


def _candidates(
    rows: torch.Tensor, scheme: Scheme, problem: _Problem, channel_scale: torch.Tensor
) -> Iterator[tuple[torch.Tensor, Grid]]:
    """Yield steps and grid of GPTQ, of each sweep after it, and last of rounding to nearest on GPTQ's scaled grid."""
    steps, first = problem.gptq(rows, scheme, channel_scale)
    yield steps, first
    grid = first
    for _ in range(SWEEPS):
        steps = descend(rows, problem.moments.hessian, steps, grid, scheme)
        grid = refit_scales(rows, problem.moments.hessian, steps, grid, scheme)
        yield steps, grid
    yield round_to_grid(rows, first, scheme), first
