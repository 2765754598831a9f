"""`LayerSolver`: one decoder layer, input group by input group in the order of the forward pass.

Each group sees the outputs of the rounded ones before it; in Qwen3's dense layers q/k/v -> o -> gate/up -> down. Blocks
of experts are solved by `q3edge.calibration.layers.experts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from q3edge.architecture.blocks import Block, InputGroup
from q3edge.calibration.layers.experts import ExpertsSolver
from q3edge.calibration.layers.input_group import rounds_inputs
from q3edge.calibration.layers.predicted_work import LayerWork
from q3edge.calibration.layers.rounded import LayerResult, RoundedLayer
from q3edge.calibration.layers.routed import RoutedStates
from q3edge.calibration.layers.streams import SpilledStream, StateStream, Tokens
from q3edge.calibration.rounding.moments import Moments
from q3edge.checkpoint.source import WeightSource
from q3edge.progress import Advance, portion, unheard
from q3edge.quantization.scheme import Scheme
from q3edge.reference.blocks.experts import Routing
from q3edge.reference.layer import block_output, first_input, next_input
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights

_Read = Callable[[slice], torch.Tensor]  # a range of sequences -> float32 [n, S, K]


class LayerSolver:
    """Solver of one layer; hidden states are read from one stream and written to another."""

    def __init__(
        self,
        source: WeightSource,
        layer: int,
        schemes: Mapping[str, Scheme | None],
        tokens: Tokens,
        folder: Path,
        advance: Advance,
    ) -> None:
        """Prepare one layer; temporary files go to `folder`.

        advance: called as the work goes on, with `solving` of the layer's LayerWork in all.
        """
        self._config, self._tokens, self._folder, self._advance = source.config, tokens, folder, advance
        self._rounded = RoundedLayer(source, layer, schemes)
        self._work = LayerWork.of(source.config, self._rounded.layer, schemes, tokens)
        self._rotary = RotaryTables.of(source.config, tokens.length)
        self._last: InputGroup | None = None  # the last one rounded
        self.routing: Routing | None = None  # of all tokens, once a layer with experts is solved

    def solve(self, before: StateStream, after: StateStream) -> LayerResult:
        """Round all input groups of all blocks: reads the hidden states `before` the layer, writes those `after` it."""
        hidden, obsolete = _Spilled(before), list[_Spilled]()
        blocks = self._rounded.layer.blocks
        # Experts read their tokens here, wherever these were computed.
        between = StateStream if self._rounded.layer.of_experts else SpilledStream
        for block in blocks:
            stream = after
            if block is not blocks[-1]:
                stream = self._stream(f"after-{block.kind}", self._config.hidden_size, between)
            values: _Read = partial(self._first_input, block, hidden)
            if block.router is None:
                self._round(block.groups[0], values)
            else:
                schemes = {f: s for group in block.groups for f, s in self._rounded.schemes_of(group).items()}
                moments = self._moments(values, schemes, self._config.hidden_size)
            hidden.settle()
            for spilled in obsolete:
                spilled.delete()
            obsolete = [] if block is blocks[0] else [hidden]
            if block.router is not None:
                self._solve_experts(block, moments, hidden, stream)
                hidden = _Spilled(stream)
                continue
            for number, group in enumerate(block.groups[1:], 1):
                spilled = _Spilled(
                    self._stream(f"{block.kind}-{number}", self._width(group)),
                    partial(self._next_input, block, number, values),
                )
                spilled.settle(self._round(group, spilled.read))
                obsolete.append(spilled)
                values = spilled.read
            hidden = _Spilled(stream, partial(self._output, block, hidden, values))
        self._tokens.run(hidden.read, portion(self._advance, self._work.output, self._tokens.sequences))
        for spilled in obsolete:
            spilled.delete()
        return self._rounded.result

    def scaled_layer(self) -> LayerWeights:
        """Build the float layer that the solved one stands for: the same function, with channel scales folded in."""
        return self._rounded.scaled_layer()

    def _round(self, group: InputGroup, inputs: _Read) -> torch.Tensor:
        """Round a group for the inputs that `inputs` gives; returns the channel scale [K] that was folded."""
        number = self._rounded.layer.groups.index(group)
        advance = portion(self._advance, self._work.reading(number), self._tokens.sequences)
        moments = self._moments(inputs, self._rounded.schemes_of(group), self._width(group), advance)
        channel_scale = self._rounded.round(group, moments, self._advance)
        if self._last is not None:
            self._rounded.release(self._last)
        self._last = group
        return channel_scale

    def _solve_experts(self, block: Block, moments: Moments, hidden: _Spilled, after: StateStream) -> None:
        """Solve a block of experts; moments: of its input. Writes the hidden states `after` it."""
        solver = ExpertsSolver(self._rounded, block, self._tokens)
        scaled = moments.of_scaled(solver.scale(moments))
        groups = self._rounded.layer.groups
        places = [[groups.index(group) for group in expert] for expert in block.experts]
        sums = self._stream("sums", self._config.hidden_size, StateStream)
        tokens, weights = self._tokens, self._rounded.weights
        routed = RoutedStates(block, weights, self._config, tokens, hidden.stream, sums)
        solver.solve(routed, scaled, lambda number: self._advance(sum(map(self._work.of_group, places[number]))))
        routed.write(after)
        sums.delete()
        self.routing = routed.routing

    def _moments(self, inputs: _Read, schemes: Mapping[str, Scheme], width: int, advance: Advance = unheard) -> Moments:
        """Moments of the inputs that `inputs` gives; advance: called with the number of sequences that are done."""
        empty = partial(Moments.empty, width, keeps_samples=rounds_inputs(schemes))
        if schemes:
            return self._tokens.sum(inputs, empty, advance)
        self._tokens.run(inputs, advance)  # inputs of a group that stays float are still computed and stored
        return empty()

    def _first_input(self, block: Block, hidden: _Spilled, part: slice) -> torch.Tensor:
        return first_input(hidden.read(part), block, self._rounded.weights, self._config)

    def _next_input(self, block: Block, number: int, values: _Read, part: slice) -> torch.Tensor:
        weights = self._rounded.weights
        return next_input(values(part), block, number, weights, self._config, self._rotary).float()

    def _output(self, block: Block, hidden: _Spilled, values: _Read, part: slice) -> torch.Tensor:
        return block_output(hidden.read(part), values(part), block, self._rounded.weights)

    def _width(self, group: InputGroup) -> int:
        return self._rounded.layer.tensors[group.matrices[0]].shape[1]

    def _stream(self, name: str, width: int, kind: type[StateStream] = SpilledStream) -> StateStream:
        return kind(self._folder / f"{name}.bin", self._tokens, width)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_advance": unheard}  # progress is told here, wherever inputs are computed


class _Spilled:
    """Values of all tokens in a stream, stored there as they are computed; after `settle` they are only read."""

    def __init__(self, stream: StateStream, compute: _Read | None = None) -> None:
        """`compute` gives the values of a range of sequences; None: the stream holds all of them already."""
        self.stream, self._compute = stream, compute
        self._divisor: torch.Tensor | None = None

    def read(self, part: slice) -> torch.Tensor:
        """Read float32 [n, S, K] of a range of sequences, or compute and store it."""
        if self._compute is None:
            values = self.stream.read(part)
            return values if self._divisor is None else values / self._divisor
        values = self._compute(part)
        self.stream.write(part, values)
        return values

    def settle(self, divisor: torch.Tensor | None = None) -> None:
        """Read the stored values from now on, divided by `divisor` [K] if given."""
        self._compute, self._divisor = None, divisor

    def delete(self) -> None:
        """Remove the stream."""
        self.stream.delete()
