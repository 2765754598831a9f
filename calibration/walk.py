"""The walk over the layers: every layer is solved for the tokens as the rounded layers before it leave them.

Behind the last layer comes the head, solved for the final hidden states.

Owns the order of work and what is durable when. A layer and the hidden states behind it are on disk before the next
layer begins; the next run continues there. A layer whose file is damaged is solved again from the states before it,
which are computed anew from the layers that are sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.journal import Journal
from calibration.layer import LayerResult, LayerSolver
from calibration.moments import Moments
from calibration.streams import Stream, Tokens
from calibration.tables import embed_rounded, embedding_share, solve_head
from calibration.units import STAGE_FIELDS
from q3edge.errors import InputError
from q3edge.progress import Progress
from q3edge.reference.layer import LayerWeights, decoder_layer, normalize, read_tensor, tensor_name
from q3edge.reference.rotary import RotaryTables
from q3edge.scheme import Scheme
from q3edge.tensor import QuantizedTensor
from q3edge.weights import EMBEDDING, FINAL_NORM, WeightSource, head_tensor

HELD_OUT = 1 / 8  # of the sequences judge every choice


class Walk:
    """Calibration of all layers for `token_ids` int64 [sequences, length]; layers without a scheme pass through.

    The journal holds the head as one layer more, where it has a scheme.
    """

    def __init__(
        self,
        source: WeightSource,
        schemes: Mapping[str, Scheme | None],
        token_ids: NDArray[np.int64],
        journal: Journal,
        *,
        bfloat16: bool = False,
    ) -> None:
        """InputError: fewer than two sequences, of which one could be held out."""
        sequences, length = token_ids.shape
        if sequences < 2:
            raise InputError(f"calibration data: {sequences} row of {length} tokens; expected at least 2, give more")
        self._source, self._schemes, self._token_ids, self._journal = source, schemes, token_ids, journal
        self._layers = source.config.num_hidden_layers
        self._head = head_tensor(source.config)
        self.tokens = Tokens(sequences, length, held_out_rows(sequences), bfloat16)

    def run(self, progress: Progress) -> Stream:
        """Solve what is not solved yet; returns the hidden states behind the last layer."""
        sound = {n for n in self._journal.finished_layers() if self._journal.load(n, self._schemes) is not None}
        begin = self._first_boundary(sound)
        head_scheme = self._schemes.get(self._head)
        steps = self._layers * len(STAGE_FIELDS) + (head_scheme is not None)
        with progress.task("calibrate", steps) as advance:
            advance(begin * len(STAGE_FIELDS))
            before = self._states(begin)
            if begin == 0:
                self._embed(before)
            for layer in range(begin, self._layers):
                after = self._states(layer + 1)
                result = self._journal.load(layer, self._schemes) if layer in sound else None
                if result is None:
                    solver = LayerSolver(self._source, layer, self._schemes, self.tokens, self._journal.folder, advance)
                    result = solver.solve(before, after)
                    after.commit()
                    self._journal.save(layer, result)
                else:
                    self._pass_through(layer, result, before, after)
                    after.commit()
                    advance(len(STAGE_FIELDS))
                before.delete()
                before = after
            if head_scheme is not None:
                if self._layers not in sound:
                    self._journal.save(self._layers, self._solve_head(before, head_scheme))
                advance(1)
        return before

    def results(self) -> Iterator[LayerResult]:
        """Every layer's result, in order, and the head's if it is rounded, once `run` is done."""
        yield from map(self._result, range(self._layers))
        if self._schemes.get(self._head) is not None:
            yield self._result(self._layers)

    def head(self) -> QuantizedTensor | None:
        """The head as it was rounded, once `run` is done; None: it is float."""
        return None if self._schemes.get(self._head) is None else self._result(self._layers).tensors[self._head]

    def _result(self, layer: int) -> LayerResult:
        result = self._journal.load(layer, self._schemes)
        if result is None:
            raise InputError(f"{self._journal.folder}: layer {layer} is missing or damaged; run the command again")
        return result

    def _first_boundary(self, sound: Set[int]) -> int:
        """Where to begin: behind the layers that are done if their hidden states are there, else at the embedding."""
        done = next(n for n in range(self._layers + 1) if n not in sound or n == self._layers)
        return done if self._has_states(done) else 0

    def _has_states(self, boundary: int) -> bool:
        if boundary == 0 or not self._path(boundary).exists():
            return False
        states = self._states(boundary)
        whole = states.is_whole
        if whole:
            states.close()
        else:
            states.delete()
        return whole

    def _path(self, boundary: int) -> Path:
        return self._journal.folder / f"hidden-{boundary:04}.bin"

    def _states(self, boundary: int) -> Stream:
        return Stream(self._path(boundary), self.tokens, self._source.config.hidden_size)

    def _embed(self, states: Stream) -> None:
        """The rows of the embedding that occur, rounded as they will be."""
        for part in self.tokens.parts:
            states.write(part, embed_rounded(self._source, self._token_ids[part], self._schemes[EMBEDDING]))
        states.commit()

    def _pass_through(self, layer: int, result: LayerResult, before: Stream, after: Stream) -> None:
        weights = rounded_layer(self._source, layer, result)
        rotary = RotaryTables.of(self._source.config, self.tokens.length)

        def forward(part: slice) -> None:
            after.write(part, decoder_layer(before.read(part), weights, self._source.config, rotary))

        for _ in self.tokens.map(forward):
            pass

    def _solve_head(self, states: Stream, scheme: Scheme) -> LayerResult:
        """A tied table is solved for the states that its rows rounded to nearest led to: `states` are what is there."""
        config, norm = self._source.config, read_tensor(self._source, FINAL_NORM)
        moments = Moments.empty(config.hidden_size)
        for part, final in self.tokens.map(lambda part: normalize(states.read(part), norm, config)):
            moments.add(final.flatten(0, 1), held_out=self.tokens.is_held_out(part))
        layers = (rounded_layer(self._source, layer, self._result(layer)) for layer in range(self._layers))
        share = embedding_share(self._source, layers, self._token_ids, scheme, bfloat16=self.tokens.bfloat16)
        tensor, report = solve_head(self._source, scheme, moments, share)
        return LayerResult({self._head: tensor}, {}, {self._head: report})


def held_out_rows(sequences: int) -> int:
    """How many of `sequences`, the last ones, judge."""
    return max(1, round(sequences * HELD_OUT))


def rounded_layer(source: WeightSource, layer: int, result: LayerResult) -> LayerWeights:
    """float32 weights of a finished layer: dequantized, balanced, or as they are in `source`."""

    def read(name: str) -> torch.Tensor:
        if name in result.tensors:
            return torch.from_numpy(result.tensors[name].dequantize())
        return torch.from_numpy(result.floats[name] if name in result.floats else source.read(name))

    return LayerWeights(**{field.name: read(tensor_name(layer, field.name)) for field in fields(LayerWeights)})
