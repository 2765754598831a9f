"""`ExpertMatrices`: experts' matrices as the operators QMoE and MoE read them, all of a layer in one tensor.

fc1 is gate and up of every expert, their rows in turn; fc2 is down. Both operators have one scheme for each of the two,
and QMoE besides one width of codes and one size of blocks for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from q3edge.architecture.blocks import InputGroup
from q3edge.architecture.layer import Layer
from q3edge.errors import InputError
from q3edge.exporters.onnx.stored import label_of
from q3edge.quantization.scheme import GROUP_SIZES, Scheme

_PLAIN = "give all experts of a layer one scheme, or export with --experts plain"


@dataclass(frozen=True, slots=True)
class ExpertMatrices:
    """One of the two tensors of a layer's experts, [E, N, K].

    experts: for each, the names of its matrices, whose rows come in turn. scheme: as which they are stored (None: they
    stay float); its groups are the operator's blocks, which repeat the scale of a larger group.
    """

    label: str
    experts: tuple[tuple[str, ...], ...]
    shape: tuple[int, int, int]
    scheme: Scheme | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all matrices, in the order of storing."""
        return tuple(name for matrices in self.experts for name in matrices)


def expert_matrices(
    layer: Layer, scheme_of: Callable[[str], Scheme | None]
) -> tuple[ExpertMatrices, ExpertMatrices] | None:
    """Find fc1 and fc2 of a layer; None where it has no experts.

    InputError names two matrices whose schemes the operators cannot have side by side.
    """
    experts = [groups for block in layer.blocks for groups in block.experts]
    if not experts:
        return None
    fc1, fc2 = (_stacked(layer, groups) for groups in zip(*experts, strict=True))
    return _with_schemes(fc1, fc2, _common_scheme(fc1, scheme_of), _common_scheme(fc2, scheme_of))


def _stacked(layer: Layer, groups: Sequence[InputGroup]) -> ExpertMatrices:
    """Stack the matrices of one role of all experts; they stay float."""
    shapes = [layer.tensors[field].shape for field in groups[0].matrices]
    names = tuple(map(layer.names, groups))
    parent, _, role = label_of(names[0]).rpartition(f".{groups[0].expert}.")
    return ExpertMatrices(f"{parent}.{role}", names, (len(groups), sum(rows for rows, _ in shapes), shapes[0][1]), None)


def _common_scheme(matrices: ExpertMatrices, scheme_of: Callable[[str], Scheme | None]) -> Scheme | None:
    first, *others = matrices.names
    scheme = scheme_of(first)
    for name in others:
        if scheme_of(name) != scheme:
            expected = "one scheme for all experts' gate and up, and one for all experts' down"
            raise _differ((first, scheme), (name, scheme_of(name)), expected)
    return scheme


def _with_schemes(
    fc1: ExpertMatrices, fc2: ExpertMatrices, first: Scheme | None, second: Scheme | None
) -> tuple[ExpertMatrices, ExpertMatrices]:
    """Copies with the schemes as which they are stored, from those of the weights."""
    if first is None and second is None:
        return fc1, fc2
    if first is None or second is None or first.bits != second.bits:
        raise _differ((fc1.names[0], first), (fc2.names[0], second), "the same number of bits for gate, up and down")
    sizes = {scheme.group_size for scheme in (first, second)} - {None}
    fitting = [size for size in GROUP_SIZES if fc1.shape[2] % size == 0 and fc2.shape[2] % size == 0]
    if not fitting:
        raise InputError(f"{fc1.label}: experts {fc1.shape[2]} and {fc2.shape[2]} wide have no common group size")
    block = min(size for size in (*sizes, max(fitting)) if size is not None)
    stored = (Scheme(scheme.bits, block, scheme.symmetric, scales=scheme.scales) for scheme in (first, second))
    return replace(fc1, scheme=next(stored)), replace(fc2, scheme=next(stored))


def _differ(a: tuple[str, Scheme | None], b: tuple[str, Scheme | None], expected: str) -> InputError:
    found = " and ".join(
        f"{name.removesuffix('.weight')} is {scheme.label() if scheme else 'float'}" for name, scheme in (a, b)
    )
    return InputError(f"{found}: onnxruntime's operator for experts takes {expected}; {_PLAIN}")
