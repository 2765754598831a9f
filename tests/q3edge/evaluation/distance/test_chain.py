"""The one chain from windows to distances: equal to comparing whole windows, in order, each float layer read once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.errors import ValidationError
from q3edge.evaluation.distance.chain import (
    BATCH_TOKENS,
    NonFiniteLogitsError,
    batches,
    compare_models,
    read_windows,
    side_by_side,
)
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.metrics import METRICS
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.streams import CHUNK, ComparedDecoder, LogitsChunks
from q3edge.evaluation.distance.windows import Window
from tests.helpers.decoders import ReferenceDecoder
from tests.helpers.models import InMemoryWeights

VOCABULARY = 40
LENGTHS = (CHUNK + 9, 20, 300, 7)


class Known:
    """A model whose logits of a window are made up from its tokens; remembers what it was asked."""

    def __init__(self, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(0, 2, (VOCABULARY, VOCABULARY)).astype(np.float32)
        self.asked: list[int] = []

    def of(self, window: Window) -> NDArray[np.float32]:
        return self.table[window.inputs]

    def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
        self.asked += [len(window.inputs) for window in windows]
        return [iter(np.array_split(self.of(w), range(CHUNK, len(w.inputs), CHUNK))) for w in windows]


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    random = np.random.default_rng(0)
    return [Window(f"text {i}", random.integers(0, VOCABULARY, length + 1)) for i, length in enumerate(LENGTHS)]


def test_every_pair_is_compared_as_whole_windows_are(windows: list[Window]) -> None:
    models = [Known(seed) for seed in range(3)]
    pairs = ((0, 1), (0, 2), (2, 1))
    for (reference, candidate), found in zip(pairs, compare_models(windows, models, pairs), strict=True):
        assert [len(metrics) for metrics in found] == list(LENGTHS)
        for window, metrics in zip(windows, found, strict=True):
            expected = compare_logits(models[reference].of(window), models[candidate].of(window), window.targets)
            for name in METRICS:
                np.testing.assert_array_equal(getattr(metrics, name), getattr(expected, name))


def test_logits_are_freed_before_the_next_are_computed(windows: list[Window]) -> None:
    earlier: list[weakref.ref[NDArray[np.float32]]] = []

    class Watched(Known):
        def logits(self, windows: Sequence[Window]) -> list[LogitsChunks]:
            return [self.chunks(window) for window in windows]

        def chunks(self, window: Window) -> LogitsChunks:
            return (self.chunk(window.inputs[at : at + CHUNK]) for at in range(0, len(window.inputs), CHUNK))

        def chunk(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
            if self is models[0]:
                assert not [chunk for chunk in earlier if chunk() is not None]
            chunk = self.table[inputs]
            earlier.append(weakref.ref(chunk))
            return chunk

    models = [Watched(0), Watched(1)]
    compare_models(windows, models)
    assert len(earlier) == 2 * sum(-(-length // CHUNK) for length in LENGTHS)


def test_models_that_disagree_on_the_length_are_told() -> None:
    chunk = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="different numbers of chunks"):
        list(side_by_side([iter([chunk, chunk]), iter([chunk])]))


def test_what_is_known_is_not_read_but_stays_in_its_batch(windows: list[Window]) -> None:
    model = Known(0)
    found = read_windows(
        windows, [model], lambda number, logits: len(list(logits[0])), known={0, 2}, groups=list("abab")
    )
    assert dict(found) == {1: 1, 3: 1}
    assert model.asked == [7, 20]
    both = Known(0)
    assert dict(read_windows(windows, [both], lambda number, _: number, known={0, 2})) == {1: 1, 3: 3}
    assert both.asked == sorted(LENGTHS)


def test_batches_are_of_one_group_and_bounded() -> None:
    lengths = [*([5000] * 4), 30, 10, 20_000]
    assert BATCH_TOKENS == 16_384
    assert batches(lengths, [*"aabaabb"]) == [[4, 0, 1], [3], [5, 2], [6]]
    assert batches([5000, 5000, 5000, 30], [*"aaaa"]) == [[3, 0, 1], [2]]  # the other group moves nothing


def test_one_float_reference_gives_the_decoders_own_logits() -> None:
    """With the same weights on both sides nothing is left but the order of summation."""
    source = InMemoryWeights.random(1)
    random = np.random.default_rng(1)
    texts = [Window("t", random.integers(0, 320, length + 1)) for length in (40, 90)]
    (found,) = compare_models(texts, [FloatReference(source), ComparedDecoder(ReferenceDecoder(source))])
    assert max(metrics.kl.max() for metrics in found) < 1e-9
    assert all(metrics.top1_agreement.all() for metrics in found)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_token_without_finite_logits_is_named(windows: list[Window], value: float) -> None:
    class Broken(Known):
        def of(self, window: Window) -> NDArray[np.float32]:
            logits = super().of(window).copy()
            if window.text == "text 2":
                logits[CHUNK + 3 :, 5] = value
            return logits

    with pytest.raises(NonFiniteLogitsError, match=rf"text text 2, token {CHUNK + 3}: logits are NaN or infinite"):
        compare_models(windows, [Known(0), Broken(1)])
    assert issubclass(NonFiniteLogitsError, ValidationError)
