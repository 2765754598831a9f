"""Sensitivity of a model: the cost in nats of KL of every input group at every width.

One pass over the float layers. Each group is rounded alone at one width, and the KL that this causes at the model's end
is measured; its other widths cost in proportion to their output error, which like the KL is quadratic in the error of
the weights. The embedding and the head affect everything at once, so each of their widths is solved whole and measured.
All experts of a layer have one width: they are rounded together, for the inputs of any of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.blocks import InputGroup
from q3edge.architecture.layer import Layer, layers_of
from q3edge.architecture.tensors import FINAL_NORM, head_tensor, tensor_shapes
from q3edge.calibration.layers.input_group import sampled_losses, solve_input_group
from q3edge.calibration.layers.predicted_work import GroupWork, LayerWork
from q3edge.calibration.layers.scheme_groups import SchemeGroup
from q3edge.calibration.layers.streams import StateStream, Tokens
from q3edge.calibration.layers.tables import ReplacedHead, embed_quantized, embedding_share, solve_head
from q3edge.calibration.rounding.channel_scaling import nearest_foldable
from q3edge.calibration.rounding.moments import Moments
from q3edge.checkpoint.source import WeightSource
from q3edge.progress import Advance, portion
from q3edge.quantization.scheme import Scheme
from q3edge.reference.divergence import mean_kl
from q3edge.reference.layer import decoder_layer
from q3edge.reference.model import LogitsHead
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize, read_tensor

SOLVED = 32  # sequences that groups are rounded for
PROBED, PROBED_LENGTH = 8, 128  # sequences that the KL is measured on, and how many tokens of each
Widths = Sequence[Scheme | None]  # None: float


class Sensitivity:
    """Measurement of every width of every scheme group; one of a layer needs a width of 4 bits, at which it is probed.

    token_ids: int64 [sequences, length], of which the last `held_out` are held out. Temporary files go to `folder`.
    """

    def __init__(
        self,
        source: WeightSource,
        widths: Mapping[SchemeGroup, Widths],
        token_ids: NDArray[np.int64],
        held_out: int,
        folder: Path,
        *,
        bfloat16: bool = False,
    ) -> None:
        self._source, self._config, self._widths = source, source.config, widths
        train, unseen = token_ids[:-held_out], token_ids[-held_out:]
        self._solved = train[_evenly_spaced(len(train), SOLVED)]
        self._probed = unseen[_evenly_spaced(len(unseen), PROBED), :PROBED_LENGTH]
        lengths = (self._solved.shape[1], self._probed.shape[1])
        self._rotary = {length: RotaryTables.of(source.config, length) for length in lengths}
        self._tokens = Tokens(len(self._solved), self._solved.shape[1], 0, bfloat16)
        # Hidden states of the float model, and of its variants, one after another: each has one group rounded.
        self._states = StateStream(folder / "float.bin", self._tokens, source.config.hidden_size)
        self._variants = StateStream(folder / "variants.bin", self._probe_tokens(1), source.config.hidden_size)
        rounded = {name: widths[_probed_width(widths)] for group, widths in widths.items() for name in group.tensors}
        schemes = {**dict.fromkeys(tensor_shapes(self._config)), **rounded}
        self._work = [LayerWork.of(self._config, layer, schemes, self._tokens) for layer in layers_of(self._config)]
        self._begun: list[tuple[SchemeGroup, int] | None] = []
        self._losses: dict[SchemeGroup, list[float]] = {}

    def run(self) -> dict[SchemeGroup, list[float]]:
        """Measure the cost of every width of every scheme group, in nats of KL to the float model."""
        layers = range(self._config.num_hidden_layers)
        try:
            self._embed()
            begun, work = len(self._begun), self._comparing
            for layer in layers:
                work += self._reading(layer) + self._rounding(layer) + self._passing(layer, begun)
                begun += len(self._groups(layer))
            with progress.task("measure sensitivity", work + begun * self._head_pass) as advance:
                for layer in layers:
                    self._pass_layer(layer, advance)
                divergences = self._divergences(advance)
        finally:
            self._states.delete()
            self._variants.delete()
        return {group: self._costs(group, divergences) for group in self._widths}

    def _costs(self, group: SchemeGroup, divergences: Mapping[tuple[SchemeGroup, int], float]) -> list[float]:
        if group.layer is None:
            return [divergences.get((group, number), 0.0) for number in range(len(self._widths[group]))]
        probed, losses = _probed_width(self._widths[group]), self._losses[group]
        per_loss = divergences[group, probed] / max(losses[probed], torch.finfo(torch.float32).tiny)
        return [loss * per_loss for loss in losses]

    def _embed(self) -> None:
        for part in self._tokens.parts:
            self._states.write(part, embed_quantized(self._source, self._solved[part], None))
        self._begin(None, embed_quantized(self._source, self._probed, None))
        for group, widths in self._widths.items():
            if group.layer is None:
                for number, scheme in enumerate(widths):
                    if scheme is not None:
                        self._begin((group, number), embed_quantized(self._source, self._probed, scheme))

    def _groups(self, layer: int) -> list[SchemeGroup]:
        return [group for group in self._widths if group.layer == layer]

    def _reading(self, layer: int) -> int:
        """Predicted work, as are those below, until the moments of a layer's inputs are known."""
        work = self._work[layer]
        return work.forward + sum(group.moments(work.tokens) for group in work.groups)

    def _rounding(self, layer: int) -> int:
        """Work of rounding a layer's groups, one after another."""
        described = Layer.of(self._config, layer)
        rows: dict[str, int] = {}
        for found in described.groups:
            if any(group.covers(found) for group in self._groups(layer)):
                rows.setdefault(found.role, 0)
                rows[found.role] += sum(described.tensors[field].shape[0] for field in found.matrices)
        width = {found.role: described.tensors[found.matrices[0]].shape[1] for found in described.groups}
        work = [GroupWork(width[role], count) for role, count in rows.items()]
        return sum(group.choosing + group.solving for group in work)

    def _passing(self, layer: int, variants: int) -> int:
        """Work of taking so many variants through a layer."""
        return self._work[layer].forward * variants * self._probed.size // self._work[layer].tokens

    @property
    def _head_pass(self) -> int:
        """Work of one variant's logits."""
        return 2 * self._probed.size * self._config.hidden_size * self._config.vocab_size

    @property
    def _comparing(self) -> int:
        """Work of solving all heads."""
        work = GroupWork(self._config.hidden_size, self._config.vocab_size)
        heads = [group for group in self._widths if group.layer is None and head_tensor(self._config) in group.tensors]
        count = sum(scheme is not None for group in heads for scheme in self._widths[group])
        return count * (work.choosing + work.solving)

    def _pass_layer(self, layer: int, advance: Advance) -> None:
        """Take all variants through the layer, and begin those that have one of its groups rounded."""
        weights = LayerWeights.read(self._source, layer)
        moments = self._moments(weights, advance)
        before = self._variants.read(self._place(0))
        begun = []
        for group in self._groups(layer):
            rounded = self._round_group(group, weights, moments, advance)
            begun.append(((group, _probed_width(self._widths[group])), self._probed_output(rounded, before)))

        def forward(part: slice) -> None:
            self._variants.write(part, self._layer(weights, self._variants.read(part)))

        passed = portion(advance, self._passing(layer, len(self._begun)), len(self._begun) * len(self._probed))
        for part, _ in self._probe_tokens(len(self._begun)).map(forward):
            passed(part.stop - part.start)
        for variant, output in begun:
            self._begin(variant, output)

    def _probed_output(self, weights: LayerWeights, states: torch.Tensor) -> torch.Tensor:
        parts = self._probe_tokens(1).map(lambda part: self._layer(weights, states[part]))
        return torch.cat([output for _, output in parts])

    def _layer(self, weights: LayerWeights, states: torch.Tensor) -> torch.Tensor:
        return decoder_layer(states, weights, self._config, self._rotary[states.shape[1]])

    def _moments(self, weights: LayerWeights, advance: Advance) -> dict[str, Moments]:
        """Moments of each role's input, for the solved sequences, which go through the layer, and the probed ones."""
        layer = weights.layer
        roles = {group.name: group.role for group in layer.groups}
        moments = {g.role: Moments.empty(layer.tensors[g.matrices[0]].shape[1]) for g in layer.groups}

        def inputs(x: torch.Tensor) -> tuple[dict[str, list[torch.Tensor]], torch.Tensor]:
            seen: dict[str, list[torch.Tensor]] = {}

            def watch(group: str, values: torch.Tensor) -> None:
                seen.setdefault(roles[group], []).append(values.float().flatten(0, -2))

            return seen, decoder_layer(x, weights, self._config, self._rotary[x.shape[1]], watch=watch)

        def solved(part: slice) -> dict[str, list[torch.Tensor]]:
            groups, output = inputs(self._states.read(part))
            self._states.write(part, output)
            return groups

        read = portion(advance, self._reading(layer.number), len(self._solved) + len(self._probed))
        for tokens, function, held_out in (
            (self._tokens, solved, False),
            (self._probe_tokens(1), lambda part: inputs(self._variants.read(part))[0], True),
        ):
            for part, groups in tokens.map(function):
                for role, values in groups.items():
                    moments[role].add(torch.cat(values), held_out=held_out)
                read(part.stop - part.start)
        return moments

    def _round_group(
        self, group: SchemeGroup, weights: LayerWeights, moments: dict[str, Moments], advance: Advance
    ) -> LayerWeights:
        """Round one group of the layer at the width it is probed at; notes the loss of every width.

        moments: by role, of which those of the group are removed.
        """
        widths = self._widths[group]
        scheme = widths[_probed_width(widths)]
        assert scheme is not None
        by_role: dict[str, list[InputGroup]] = {}
        for found in filter(group.covers, weights.layer.groups):
            by_role.setdefault(found.role, []).append(found)
        self._losses[group] = [0.0] * len(widths)
        for role, groups in by_role.items():
            matrices, seen = {name: weights[name] for found in groups for name in found.matrices}, moments.pop(role)
            allowed = partial(nearest_foldable, fold=groups[0].fold if len(groups) == 1 else None)
            solution = solve_input_group(matrices, dict.fromkeys(matrices, scheme), seen, allowed, advance)
            losses = sampled_losses(matrices, widths, seen, solution.channel_scale)
            self._losses[group] = [known + loss for known, loss in zip(self._losses[group], losses)]
            values = {name: torch.from_numpy(found.dequantize()) for name, found in solution.tensors.items()}
            weights = weights.replaced({name: value / solution.channel_scale for name, value in values.items()})
        return weights

    def _divergences(self, advance: Advance) -> dict[tuple[SchemeGroup, int], float]:
        """Mean KL of every variant to the float model."""
        float_head, norm = LogitsHead(self._source), read_tensor(self._source, FINAL_NORM)
        by_head: dict[tuple[SchemeGroup, int] | None, list[int]] = {}
        for number, variant in enumerate(self._begun):
            own_head = variant is not None and variant[0].layer is None
            by_head.setdefault(variant if own_head else None, []).append(number)
        solved = self._heads(norm, advance)
        found: dict[tuple[SchemeGroup, int], float] = {}
        for variant, numbers in by_head.items():
            head = float_head if variant is None else LogitsHead(solved(*variant))
            totals = np.zeros(len(numbers))
            compared = portion(advance, len(numbers) * self._head_pass, len(self._probed))
            for row in range(len(self._probed)):
                target, *others = (self._final(norm, number, row) for number in (0, *numbers))
                totals += mean_kl(float_head, target, head, others)
                compared(1)
            for number, total in zip(numbers, totals / len(self._probed)):
                if (begun := self._begun[number]) is not None:
                    found[begun] = float(total)
        return found

    def _heads(self, norm: torch.Tensor, advance: Advance) -> Callable[[SchemeGroup, int], WeightSource]:
        """Function that gives the model with its head at one of its widths, solved when it is asked for."""
        moments = Moments.empty(self._config.hidden_size)
        for _, final in self._tokens.map(lambda part: normalize(self._states.read(part), norm, self._config)):
            moments.add(final.flatten(0, 1), held_out=False)
        for row in range(len(self._probed)):
            moments.add(self._final(norm, 0, row), held_out=True)

        @cache
        def share(probed: Scheme) -> float:
            layers = (LayerWeights.read(self._source, layer) for layer in range(self._config.num_hidden_layers))
            return embedding_share(self._source, layers, self._probed, probed, bfloat16=self._tokens.bfloat16)

        def head(group: SchemeGroup, number: int) -> WeightSource:
            widths = self._widths[group]
            scheme, probed = widths[number], widths[_probed_width(widths)]
            assert scheme is not None
            assert probed is not None
            return ReplacedHead(self._source, solve_head(self._source, scheme, moments, share(probed), advance)[0])

        return head

    def _final(self, norm: torch.Tensor, variant: int, row: int) -> torch.Tensor:
        first = variant * len(self._probed) + row
        return normalize(self._variants.read(slice(first, first + 1))[0], norm, self._config)

    def _begin(self, variant: tuple[SchemeGroup, int] | None, states: torch.Tensor) -> None:
        self._variants.write(self._place(len(self._begun)), states)
        self._begun.append(variant)

    def _place(self, number: int) -> slice:
        return slice(number * len(self._probed), (number + 1) * len(self._probed))

    def _probe_tokens(self, variants: int) -> Tokens:
        return dataclasses.replace(self._tokens, sequences=variants * len(self._probed), length=self._probed.shape[1])


def _probed_width(widths: Widths) -> int:
    return next(number for number, scheme in enumerate(widths) if scheme is not None and scheme.bits == 4)


def _evenly_spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of the numbers 0..count-1, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
