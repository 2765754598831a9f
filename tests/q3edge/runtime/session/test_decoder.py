"""Logits of the decoder: equal to transformers', and the same however the tokens are split over calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3ForCausalLM

from q3edge.errors import UsageError
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.session.decoder import Decoder
from tests.helpers.models import write_checkpoint
from tests.helpers.runtime import write_artifact

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("decoder") / "artifact")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return Decoder(folder, threads=1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Qwen3ForCausalLM:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def tokens(*shape: int) -> np.ndarray:
    return RANDOM.integers(2, 320, shape)


def test_logits_equal_transformers(decoder: Decoder, reference: Qwen3ForCausalLM) -> None:
    ids = tokens(1, 40)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    found = decoder.forward(ids, decoder.new_cache(40), keep=0)
    assert found.shape == (1, 40, 320)
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5


def test_a3_kernels_that_round_activations_per_row_are_switched_off(decoder: Decoder) -> None:
    """They exist on Arm only, where tests/arm measures what comes of it."""
    options = decoder._session.get_session_options()
    assert options.get_session_config_entry("mlas.disable_kleidiai") == "1"


def test_greedy_tokens_equal_transformers(decoder: Decoder, reference: Qwen3ForCausalLM) -> None:
    prompt = tokens(12).tolist()
    with torch.no_grad():
        expected = reference.generate(
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert list(generate(decoder, prompt, GenerationSettings(max_new_tokens=40))) == expected[0, 12:].tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_chunks_equal_one_call(decoder: Decoder, chunks: list[int]) -> None:
    ids = tokens(1, sum(chunks))
    whole = decoder.forward(ids, decoder.new_cache(64), keep=0)
    cache = decoder.new_cache(64)
    parts, position = [], 0
    for chunk in chunks:
        parts.append(decoder.forward(ids[:, position : position + chunk], cache, keep=0))
        position += chunk
        assert cache.length == position
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=2e-4 * np.abs(whole).max())


def test_decode_with_cache_equals_recomputing(decoder: Decoder) -> None:
    ids, cache = tokens(1, 20), decoder.new_cache(20)
    for length in range(1, 21):
        stepped = decoder.forward(ids[:, length - 1 : length], cache)
        fresh = decoder.forward(ids[:, :length], decoder.new_cache(length))
        np.testing.assert_allclose(stepped, fresh, rtol=0, atol=2e-4 * np.abs(fresh).max())


def test_keep_selects_the_last_positions(decoder: Decoder) -> None:
    ids = tokens(1, 9)
    whole = decoder.forward(ids, decoder.new_cache(9), keep=0)
    for keep in (1, 3, 9):
        found = decoder.forward(ids, decoder.new_cache(9), keep=keep)
        assert found.shape == (1, keep, 320)
        np.testing.assert_allclose(found, whole[:, -keep:], rtol=0, atol=1e-5 * np.abs(whole).max())


def test_an_array_lent_for_the_logits_gets_them_all_along(decoder: Decoder) -> None:
    ids, lent = tokens(1, 40), np.empty((1, 1, 320), np.float32)
    caches = decoder.new_cache(8), decoder.new_cache(40)
    for i in range(40):
        caches[0].reserve(i + 1)  # grows in between
        if i == 20:  # and something else is bound for once
            decoder.forward(ids[:, i : i + 1], caches[0], keep=0)
            caches[0].truncate(i)
        assert decoder.forward(ids[:, i : i + 1], caches[0], out=lent) is lent
        assert np.array_equal(lent, decoder.forward(ids[:, i : i + 1], caches[1]))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 2, 320), np.float32), ((1, 320), np.float32), ((1, 1, 320), np.float64)]
)
def test_an_array_that_does_not_fit_is_refused(decoder: Decoder, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="out is"):
        decoder.forward(tokens(1, 3), decoder.new_cache(8), out=np.empty(shape, dtype))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(folder: Path, decoder: Decoder, threads: int) -> None:
    other, ids = Decoder(folder, threads=threads), tokens(1, 48)
    caches = decoder.new_cache(64), other.new_cache(64)
    for part in (ids[:, :40], *(ids[:, i : i + 1] for i in range(40, 48))):
        expected, found = (d.forward(part, cache, keep=0) for d, cache in zip((decoder, other), caches))
        assert np.array_equal(expected, found)


def test_truncate_forgets(decoder: Decoder) -> None:
    ids, cache = tokens(1, 10), decoder.new_cache(12)
    expected = decoder.forward(ids, cache)
    cache.truncate(4)
    assert cache.length == 4
    np.testing.assert_allclose(decoder.forward(ids[:, 4:], cache), expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_full_cache_is_a_usage_error_with_both_numbers(decoder: Decoder) -> None:
    cache = decoder.new_cache(8)
    decoder.forward(tokens(1, 6), cache)
    with pytest.raises(UsageError, match="holds 8 tokens and 9 are needed"):
        decoder.forward(tokens(1, 3), cache)
    assert cache.length == 6
    with pytest.raises(UsageError, match="513 tokens asked for, but the model's context is 512"):
        decoder.new_cache(513)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_a_cache_that_grows_gives_the_same_bits(decoder: Decoder, chunks: list[int]) -> None:
    ids = tokens(1, sum(chunks))
    at_once, growing = decoder.new_cache(512), decoder.new_cache(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("q3edge.runtime.session.kv_cache.GROWTH_STEP", 8)
        for chunk, start in zip(chunks, np.cumsum([0, *chunks])):
            part = ids[:, start : start + chunk]
            growing.reserve(growing.length + chunk)
            found = decoder.forward(part, growing, keep=0)
            np.testing.assert_array_equal(found, decoder.forward(part, at_once, keep=0))
    assert growing.capacity % 8 == 0 or growing.capacity == 1


def test_a_cache_of_several_rows_grows(decoder: Decoder) -> None:
    ids, lengths = tokens(2, 9), np.array([9, 4])
    at_once, growing = decoder.new_cache(40, 2), decoder.new_cache(9, 2)
    for cache in (at_once, growing):
        decoder.forward(ids, cache, counts=lengths.tolist())
        cache.reserve(10)
    following = tokens(2, 1)
    np.testing.assert_array_equal(decoder.forward(following, growing), decoder.forward(following, at_once))
    assert (at_once.capacity, growing.capacity) == (40, 256)


def test_growth_doubles_and_ends_at_the_context(decoder: Decoder) -> None:
    cache, capacities = decoder.new_cache(200), []
    for length in (200, 201, 257, 512):
        cache.reserve(length)
        capacities.append(cache.capacity)
    assert capacities == [200, 512, 512, 512]
    with pytest.raises(UsageError, match="513 tokens asked for, but the model's context is 512"):
        cache.reserve(513)


def test_rows_of_different_length_do_not_disturb_each_other(decoder: Decoder) -> None:
    lengths = np.array([5, 1, 9])
    ids, cache = tokens(3, 9), decoder.new_cache(16, 3)
    decoder.forward(ids, cache, counts=lengths.tolist())
    following = tokens(3, 1)
    found = decoder.forward(following, cache)
    assert cache.lengths == [6, 2, 10]
    for row, length in enumerate(lengths):
        alone = np.concatenate([ids[row : row + 1, :length], following[row : row + 1]], 1)
        expected = decoder.forward(alone, decoder.new_cache(16))
        np.testing.assert_allclose(found[row], expected[0], rtol=0, atol=2e-4 * np.abs(expected).max())
