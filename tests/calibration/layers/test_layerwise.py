"""Layer-wise calibration: exact replay, better than rounding to nearest, the same bits on any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from q3edge.architecture.tensors import EMBEDDING
from q3edge.calibration.layers.layerwise import LayerwiseCalibration
from q3edge.calibration.layers.rounded import dequantize_layer
from q3edge.calibration.layers.work_folder import WorkFolder
from q3edge.calibration.rounding.rtn import round_to_nearest
from q3edge.errors import InputError
from q3edge.progress import report_to
from q3edge.quantization.scheme import Scheme
from q3edge.reference.layer import decoder_layer
from q3edge.reference.model import embed, hidden_states
from q3edge.reference.rotary import RotaryTables
from tests.helpers.calibration import (
    Counted,
    calibrate,
    flipped,
    killed_after_the_first_layer,
    kl,
    linear_schemes,
    log_probabilities,
    outlier_model,
    random_tokens,
    result_bytes,
    rounded_model,
)
from tests.helpers.models import InMemoryWeights

INT4, INT8 = Scheme(4, 32), Scheme(8, 16)
TRAINING = random_tokens(40, 32)


@pytest.mark.parametrize("scheme", [INT4, Scheme(4, 64, False), Scheme(2, 16, False)], ids=Scheme.label)
def test_it_is_nearer_to_the_float_model_than_rounding_to_nearest(scheme: Scheme, tmp_path: Path) -> None:
    source = outlier_model(1)
    schemes = linear_schemes(source, scheme)
    results, _ = calibrate(source, schemes, TRAINING, tmp_path)
    nearest = {
        name: source.read(name) if schemes[name] is None else round_to_nearest(source.read(name), scheme)
        for name in source.tensors
    }
    unseen = random_tokens(8, 32, seed=99)
    expected = log_probabilities(source, unseen)
    solved, rounded = (
        log_probabilities(model, unseen)
        for model in (rounded_model(source, results), InMemoryWeights(source.config, nearest))
    )
    assert kl(expected, solved) < 0.5 * kl(expected, rounded)
    assert (solved - expected).norm() < 0.8 * (rounded - expected).norm()


@pytest.mark.parametrize("table", [None, INT8], ids=["float embedding", "rounded embedding"])
def test_the_states_after_the_last_layer_are_those_of_the_stored_layers(table: Scheme | None, tmp_path: Path) -> None:
    source = outlier_model(2, num_hidden_layers=3)
    schemes = {**linear_schemes(source, INT4), EMBEDDING: table}
    results, states = calibrate(source, schemes, TRAINING, tmp_path)
    replay = source
    if table is not None:
        replay = InMemoryWeights(
            source.config, {**source.tensors, EMBEDDING: round_to_nearest(source.read(EMBEDDING), table)}
        )
    rotary = RotaryTables.of(source.config, TRAINING.shape[1])
    expected = embed(replay, TRAINING)
    with WorkFolder(tmp_path, {"test": "1"}) as journal:
        tokens = LayerwiseCalibration(source, schemes, TRAINING, journal).tokens
    for layer, result in enumerate(results[:3]):
        weights = dequantize_layer(source, layer, result)
        for part in tokens.parts:
            expected[part] = decoder_layer(expected[part], weights, source.config, rotary)
    assert torch.equal(states, expected)


def test_layers_without_schemes_pass_through(tmp_path: Path) -> None:
    source = outlier_model(3, num_hidden_layers=3)
    schemes = {name: scheme if ".layers.1." in name else None for name, scheme in linear_schemes(source, INT4).items()}
    results, states = calibrate(source, schemes, TRAINING, tmp_path)
    assert [len(result.tensors) for result in results] == [0, 7, 0]
    assert not results[0].floats
    assert not results[2].floats
    model = rounded_model(source, results)
    model.tensors = {**model.tensors, "model.norm.weight": np.ones(64, np.float32)}
    expected = hidden_states(model, TRAINING)
    norm = states / states.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(norm, expected, rtol=1e-4, atol=1e-4)


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    source = outlier_model(4, num_hidden_layers=1, hidden_size=96, intermediate_size=416)  # more than one tile
    schemes = {**linear_schemes(source, INT4, keep_float=("k_proj", "gate_proj")), EMBEDDING: INT4}
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folder = tmp_path / str(threads)
        results, states = calibrate(source, schemes, random_tokens(70, 32), folder)
        found.append((result_bytes(results), states.numpy().tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(2, 16), (3, 16), (9, 100), (2, 1500)])
def test_any_layout_of_tokens_works(shape: tuple[int, int], tmp_path: Path) -> None:
    source = outlier_model(5, num_hidden_layers=1, max_position_embeddings=2048)
    schemes = linear_schemes(source, INT4, keep_float=("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj"))
    results, states = calibrate(source, schemes, random_tokens(*shape), tmp_path)
    assert states.shape == (*shape, 64)
    assert torch.isfinite(states).all()
    assert len(results[0].tensors) == 2


def test_a_single_row_cannot_be_held_out(tmp_path: Path) -> None:
    source = outlier_model(6)
    with WorkFolder(tmp_path, {}) as journal, pytest.raises(InputError, match="expected at least 2"):
        LayerwiseCalibration(source, linear_schemes(source, INT4), TRAINING[:1], journal)


def test_no_sequence_is_both_solved_for_and_held_out(tmp_path: Path) -> None:
    source = outlier_model(7)
    for sequences, length in ((2, 16), (16, 64), (17, 700), (128, 512), (33, 1)):
        with WorkFolder(tmp_path, {}) as journal:
            tokens = LayerwiseCalibration(source, {}, random_tokens(sequences, length), journal).tokens
        assert 1 <= tokens.held_out < sequences
        covered = [number for part in tokens.parts for number in range(part.start, part.stop)]
        assert covered == list(range(sequences))
        held_out = {n for part in tokens.parts if tokens.is_held_out(part) for n in range(part.start, part.stop)}
        assert held_out == set(range(sequences - tokens.held_out, sequences))


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("table", [None, INT8])
def test_progress_ends_at_its_total_the_first_time_and_after(
    table: Scheme | None, reconstruct: bool, tmp_path: Path
) -> None:
    source = outlier_model(8)
    schemes = {**linear_schemes(source, INT4), EMBEDDING: table}
    for begun in (True, False):
        counted = Counted()
        with report_to(counted), WorkFolder(tmp_path, {}) as journal:
            LayerwiseCalibration(source, schemes, TRAINING[:6], journal, reconstruct=reconstruct).run().close()
        assert counted.done == counted.total
        assert (counted.total > 0) == begun  # what was done before takes no time, and is not counted


def test_progress_ends_at_its_total_after_a_stop_and_damage(tmp_path: Path) -> None:
    source = outlier_model(8, num_hidden_layers=3)
    schemes = linear_schemes(source, INT4)
    with killed_after_the_first_layer(), WorkFolder(tmp_path, {}) as journal:
        LayerwiseCalibration(source, schemes, TRAINING[:6], journal).run()
    totals = []
    for damaged in (False, True):
        counted = Counted()
        with report_to(counted), WorkFolder(tmp_path, {}) as journal:
            if damaged:
                for file in tmp_path.glob("layer-*1*"):
                    file.write_bytes(flipped(file.read_bytes(), file.stat().st_size // 2))
                for file in tmp_path.glob("hidden-*"):
                    file.unlink()
            LayerwiseCalibration(source, schemes, TRAINING[:6], journal).run().close()
        assert counted.done == counted.total
        totals.append(counted.total)
    assert totals[1] < totals[0] / 2 * 3  # one layer solved, two passed through


def test_u7_progress_moves_within_an_input_group(tmp_path: Path) -> None:
    """On a big model a group takes minutes; reading, choosing and every block of rows move the bar."""
    source = outlier_model(8, num_hidden_layers=1, intermediate_size=1536)
    counted = Counted()
    with report_to(counted), WorkFolder(tmp_path, {}) as journal:
        LayerwiseCalibration(source, linear_schemes(source, INT4), TRAINING, journal).run().close()
    moves = [count for count in counted.moves if count]
    assert len(moves) > 4 * 4
    assert max(moves) < counted.total / 3
