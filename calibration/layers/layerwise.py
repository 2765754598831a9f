"""Layer-wise calibration: every layer is solved for the hidden states that the rounded layers before it produce.

Where layers are reconstructed, the float model's hidden states are computed too, as the target of training. After the
last layer the head is solved for the final hidden states.

Decides the order of work and what is durable when; the files are in `work_folder` and `streams`. A layer and the hidden
states after it are on disk before the next layer begins; the next run continues there. A layer whose file is damaged is
solved again from the states before it, which are computed anew from the sound layers. Damage of a layer's file is found
at the start if its header or its length shows it, and else when it is read: none is read only to be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from q3edge import progress
from q3edge.architecture.config import Qwen3Config
from q3edge.architecture.tensors import EMBEDDING, FINAL_NORM, head_tensor, of_head
from q3edge.calibration.layers.layer import LayerSolver
from q3edge.calibration.layers.predicted_work import CalibrationWork
from q3edge.calibration.layers.rounded import ExpertsReport, LayerResult, dequantize_layer
from q3edge.calibration.layers.routed import pass_experts
from q3edge.calibration.layers.streams import Boundary, StateStream, Tokens
from q3edge.calibration.layers.tables import embed_quantized, embedding_share, solve_head
from q3edge.calibration.layers.work_folder import LayerSummary, WorkFolder
from q3edge.calibration.rounding.moments import Moments
from q3edge.calibration.training.reconstruct import EPOCHS, TRAINING_STEPS, LayerTrainer
from q3edge.checkpoint.source import WeightSource
from q3edge.errors import InputError
from q3edge.progress import Advance, portion
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.reference.blocks.experts import Routing, agreement
from q3edge.reference.layer import after_sequence
from q3edge.reference.rotary import RotaryTables
from q3edge.reference.weights import LayerWeights, normalize, read_tensor

HELD_OUT = 1 / 8  # share of the sequences that is held out, for every choice
Found = TypeVar("Found")


class LayerwiseCalibration:
    """Calibration of all layers for `token_ids` int64 [sequences, length]; matrices without a scheme stay float.

    The work folder `journal` holds the head, where it has a scheme, as one more layer.
    """

    def __init__(
        self,
        source: WeightSource,
        schemes: Mapping[str, Scheme | None],
        token_ids: NDArray[np.int64],
        journal: WorkFolder,
        *,
        bfloat16: bool = False,
        reconstruct: bool = False,
    ) -> None:
        """Prepare calibration; `reconstruct`: train every solved layer. InputError: fewer than two sequences."""
        sequences, length = token_ids.shape
        if sequences < 2:
            raise InputError(f"calibration data: {sequences} row of {length} tokens; expected at least 2, give more")
        self._source, self._schemes, self._token_ids, self._journal = source, schemes, token_ids, journal
        self._layers = source.config.num_hidden_layers
        self._head, self._head_scheme = head_tensor(source.config), of_head(source.config, schemes)
        self.tokens = Tokens(sequences, length, held_out_rows(sequences), bfloat16)
        self._reconstruct = reconstruct
        self._with_target = reconstruct or source.config.moe is not None  # whose router the rounded one is compared to
        self._work = CalibrationWork(source.config, schemes, self.tokens, epochs=EPOCHS if reconstruct else 0)

    @property
    def config(self) -> Qwen3Config:
        """Configuration of the model."""
        return self._source.config

    def run(self) -> StateStream:
        """Solve what is not solved yet; returns the hidden states after the last layer."""
        sound = {n for n in self._journal.finished_layers() if self._journal.finished(n) is not None}
        begin = self._first_boundary(sound)
        with progress.task("calibrate", self._work.left(begin, sound)) as advance:
            before = self._boundary(begin)
            if begin == 0:
                self._embed(before)
            for layer in range(begin, self._layers):
                after = self._boundary(layer + 1)
                result = self._journal.load(layer, self._schemes) if layer in sound else None
                if result is None:
                    expected = self._work.passing(layer) if layer in sound else self._work.solving(layer)
                    result = self._solve(layer, before, after, portion(advance, expected, self._work.solving(layer)))
                    after.commit()
                    self._journal.save(layer, result)
                else:
                    self._pass_float(layer, before, after)
                    self._pass_through(dequantize_layer(self._source, layer, result), before.own, after.own)
                    after.commit()
                    advance(self._work.passing(layer))
                before.delete()
                before = after
            if self._head_scheme is not None and self._layers not in sound:
                self._journal.save(self._layers, self._solve_head(before.own, self._head_scheme, advance))
        if before.target is not None:
            before.target.close()
        return before.own

    def results(self) -> Iterator[LayerResult]:
        """Results of every layer, in order, and of the head if it is rounded, once `run` is done; reads each file once.

        A layer whose file turns out to be damaged is solved again.
        """
        return map(self._result, self._numbers)

    def summaries(self) -> Iterator[LayerSummary]:
        """Summaries of each of the `results`, without reading their arrays."""
        for number in self._numbers:
            yield self._again(number, self._journal.finished)

    def head(self) -> QuantizedTensor | None:
        """Rounded head, once `run` is done; None: it is float."""
        return None if self._head_scheme is None else self._result(self._layers).tensors[self._head]

    @property
    def _numbers(self) -> range:
        """Numbers of the layers, and of the head if it is rounded."""
        return range(self._layers + (self._head_scheme is not None))

    def _result(self, number: int) -> LayerResult:
        return self._again(number, lambda layer: self._journal.load(layer, self._schemes))

    def _again(self, number: int, read: Callable[[int], Found | None]) -> Found:
        """Read a finished layer by `read`; it is solved again where its file is damaged, which only reading shows."""
        found = read(number)
        if found is None:
            progress.note(f"layer {number}: its file is damaged, it is solved again")
            self.run().close()
            found = read(number)
        if found is None:
            raise InputError(f"{self._journal.folder}: layer {number} is damaged again; check the disk")
        return found

    def _first_boundary(self, sound: Set[int]) -> int:
        """Number of the first layer to run: after the finished ones if their hidden states are stored, else 0."""
        done = next(n for n in range(self._layers + 1) if n not in sound or n == self._layers)
        return done if self._has_states(done) else 0

    def _has_states(self, number: int) -> bool:
        if number == 0 or not Boundary.exists(self._journal.folder, number):
            return False
        boundary = self._boundary(number)
        sound = boundary.is_sound
        if sound:
            boundary.close()
        else:
            progress.note(f"hidden states before layer {number} are damaged, they are computed again")
            boundary.delete()
        return sound

    def _boundary(self, number: int) -> Boundary:
        width = self._source.config.hidden_size
        return Boundary(self._journal.folder, number, self.tokens, width, with_target=self._with_target)

    def _embed(self, states: Boundary) -> None:
        """Write the rows of the embedding, rounded by its scheme, and for the target as they are."""
        for part in self.tokens.parts:
            states.own.write(part, embed_quantized(self._source, self._token_ids[part], self._schemes[EMBEDDING]))
            if states.target is not None:
                states.target.write(part, embed_quantized(self._source, self._token_ids[part], None))
        states.commit()

    def _solve(self, layer: int, before: Boundary, after: Boundary, advance: Advance) -> LayerResult:
        solver = LayerSolver(self._source, layer, self._schemes, self.tokens, self._journal.folder, advance)
        result = solver.solve(before.own, after.own)
        routing = self._pass_float(layer, before, after)
        if routing is not None and solver.routing is not None:
            result = replace(result, experts=_experts_report(solver.routing, routing, self._source.config))
        if self._reconstruct and after.target is not None and result.tensors:
            trainer = LayerTrainer(self._source.config, self.tokens, before.own, after.target)
            epochs = self._work.training(layer) - self._work.passing(layer)
            result = trainer.run(result, solver.scaled_layer, portion(advance, epochs, TRAINING_STEPS))
            self._pass_through(dequantize_layer(self._source, layer, result), before.own, after.own)
            advance(self._work.passing(layer))
        else:
            advance(self._work.training(layer))
        return result

    def _pass_float(self, layer: int, before: Boundary, after: Boundary) -> Routing | None:
        """Take the float model's hidden states, if they are computed, through a float layer; returns its routing."""
        if before.target is None or after.target is None:
            return None
        return self._pass_through(LayerWeights.read(self._source, layer), before.target, after.target)

    def _pass_through(self, weights: LayerWeights, before: StateStream, after: StateStream) -> Routing | None:
        """Take hidden states through a layer; returns the routing of its experts, None where there are none.

        Experts come last, and are computed one after another for all tokens.
        """
        config, folder = self._source.config, self._journal.folder
        rotary = RotaryTables.of(config, self.tokens.length)
        blocks, last = weights.layer.blocks, weights.layer.blocks[-1]
        reached = after
        if last.router is not None:
            blocks, reached = blocks[:-1], StateStream(folder / "attended.bin", self.tokens, config.hidden_size)
        assert all(block.router is None for block in blocks)

        def forward(part: slice) -> None:
            states = before.read(part)
            for block in blocks:
                states = after_sequence(states, block, weights, config, rotary)
            reached.write(part, states)

        for _ in self.tokens.map(forward):
            pass
        if reached is after:
            return None
        sums = StateStream(folder / "sums.bin", self.tokens, config.hidden_size)
        routing = pass_experts(last, reached, after, sums, weights, config, self.tokens)
        for stream in (reached, sums):
            stream.delete()
        return routing

    def _solve_head(self, states: StateStream, scheme: Scheme, advance: Advance) -> LayerResult:
        """Solve the head for `states`, the hidden states after the last layer.

        Those of a tied embedding come from its rows rounded to nearest, as the tied matrix does not exist before.
        """
        config, norm = self._source.config, read_tensor(self._source, FINAL_NORM)
        moments = self.tokens.sum(
            lambda part: normalize(states.read(part), norm, config),
            partial(Moments.empty, config.hidden_size),
            portion(advance, self._work.head_moments, self.tokens.sequences),
        )
        layers = (dequantize_layer(self._source, layer, self._result(layer)) for layer in range(self._layers))
        share = embedding_share(self._source, layers, self._token_ids, scheme, bfloat16=self.tokens.bfloat16)
        tensor, report = solve_head(self._source, scheme, moments, share, advance)
        return LayerResult({self._head: tensor}, {}, {self._head: report})


def _experts_report(own: Routing, wanted: Routing, config: Qwen3Config) -> ExpertsReport:
    assert config.moe is not None
    counts = own.counts(config.moe.num_experts)
    return ExpertsReport(tuple(counts.tolist()), agreement(own.experts, wanted.experts))


def held_out_rows(sequences: int) -> int:
    """Number of `sequences`, counted from the end, that are held out: an eighth, at least one."""
    return max(1, round(sequences * HELD_OUT))
