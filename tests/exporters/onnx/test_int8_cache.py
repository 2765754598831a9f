"""An exported decoder with an int8 KV cache against the float cache, and its scales against transformers' cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from q3edge.architecture.kv_cache import KVScales
from q3edge.calibration.layers.kv_scales import kv_scales
from q3edge.checkpoint import Checkpoint
from q3edge.checkpoint.compressed_tensors import read_kv_scales, write_kv_scales
from q3edge.checkpoint.compressed_tensors.kv_scales import KV_SCALES_FILE
from q3edge.errors import InputError
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.kv_cache import KVCache
from tests.helpers.models import InMemoryWeights, write_checkpoint
from tests.helpers.runtime import write_artifact

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 320, (1, 64))


@pytest.fixture(scope="module")
def scales() -> KVScales:
    return kv_scales(InMemoryWeights.random(), RNG.integers(0, 320, (4, 64)))


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory, scales: KVScales) -> tuple[Decoder, Decoder]:
    """The same float weights with a float32 and with an int8 cache."""
    folder = tmp_path_factory.mktemp("decoders")
    plain, int8 = (write_artifact(folder / name, kv) for name, kv in (("float32", None), ("int8", scales)))
    return Decoder(plain, threads=1), Decoder(int8, threads=1)


def held(cache: KVCache) -> NDArray[Any]:
    """[layers, 2, batch_size, kv_heads, length, head_dim] of what the cache holds."""
    buffers = np.stack([buffer[:, :, : cache.length] for buffer in cache.arrays.values()])
    return buffers.reshape(-1, 2, *buffers.shape[1:])


def by_layer(scales: KVScales) -> NDArray[np.float32]:
    """[layers, 2, 1, kv_heads, 1, head_dim]."""
    return np.stack([scales.keys, scales.values], 1)[:, :, None, :, None]


def test_scales_are_the_largest_of_transformers_cache_at_any_position(tmp_path: Path) -> None:
    """Keys turned to each position of the context in turn; between two of them a channel may be larger by a trifle."""
    folder = write_checkpoint(tmp_path / "model", torch_dtype="float32", rope_theta=1e6)
    with Checkpoint.open(folder) as checkpoint:
        found = kv_scales(checkpoint, IDS)
        frequencies = checkpoint.config.rope.inverse_frequencies(32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        past = model(torch.from_numpy(IDS), use_cache=True).past_key_values
    turns = np.exp(1j * np.outer(np.arange(512), frequencies))  # [positions, pairs]
    for layer, (keys, values) in enumerate(zip(found.keys, found.values)):
        stored = past.layers[layer].keys[0].double().numpy()  # [kv_heads, S, head_dim]
        pairs = (stored[..., :16] + 1j * stored[..., 16:]) / turns[: IDS.shape[1]]
        turned = pairs[:, :, None] * turns
        largest = np.concatenate([np.abs(turned.real).max((1, 2)), np.abs(turned.imag).max((1, 2))], axis=-1) / 127
        assert (keys > largest * (1 - 1e-5)).all()
        np.testing.assert_allclose(keys, largest, rtol=1e-3)
        theirs = past.layers[layer].values.abs().amax((0, 2)).numpy() / 127
        np.testing.assert_allclose(values, theirs, rtol=1e-5)


def test_a_long_first_prompt_is_computed_in_float(decoders: tuple[Decoder, Decoder], scales: KVScales) -> None:
    plain, int8 = decoders
    caches = plain.new_cache(128), int8.new_cache(128)
    expected, found = (decoder.forward(IDS, cache, keep=0) for decoder, cache in zip(decoders, caches))
    np.testing.assert_array_equal(found, expected)
    exact = np.clip(held(caches[0]).astype(np.float64) / by_layer(scales), -128, 127)
    stored = held(caches[1])
    assert stored.dtype == np.int8
    assert np.abs(stored - exact).max() <= 0.5 + 1e-4  # a tie of float32 may fall to either side


@pytest.mark.parametrize("new", [1, 5, 16, 17, 30])
def test_attends_to_what_the_stored_codes_mean(decoders: tuple[Decoder, Decoder], scales: KVScales, new: int) -> None:
    """Both paths against the float graph over the dequantized past; short steps also round their own keys."""
    plain, int8 = decoders
    start = IDS.shape[1] - new
    cache = int8.new_cache(IDS.shape[1])
    int8.forward(IDS[:, :start], cache)
    reference = plain.new_cache(IDS.shape[1])
    plain.forward(IDS[:, :start], reference)
    meant = (held(cache) * by_layer(scales)).reshape(-1, *held(cache).shape[2:])
    for buffer, values in zip(reference.arrays.values(), meant):
        buffer[:, :, :start] = values
    found, expected = int8.forward(IDS[:, start:], cache, keep=0), plain.forward(IDS[:, start:], reference, keep=0)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if new > 16 else 2e-2)
    exact = np.clip(np.rint(held(reference) / by_layer(scales)), -128, 127)
    assert np.abs(held(cache)[0].astype(int) - exact[0]).max() <= 1  # the first layer's depend on no attention


def test_rows_of_different_lengths(decoders: tuple[Decoder, Decoder]) -> None:
    _, int8 = decoders
    lengths = np.array([40, 23])
    prompts = np.where(np.arange(40) < lengths[:, None], RNG.integers(0, 320, (2, 40)), 0)
    together, step = int8.new_cache(64, 2), RNG.integers(0, 320, (2, 1))
    int8.forward(prompts, together, counts=lengths.tolist())
    found = int8.forward(step, together)
    for row, length in enumerate(lengths):
        alone = int8.new_cache(64)
        int8.forward(prompts[row : row + 1, :length], alone)
        np.testing.assert_allclose(found[row], int8.forward(step[row : row + 1], alone)[0], atol=1e-4)


def test_what_exceeds_the_scale_is_cut_off(tmp_path: Path, scales: KVScales) -> None:
    small = KVScales(scales.keys / np.float32(4), scales.values / np.float32(4))
    decoder = Decoder(write_artifact(tmp_path / "small", small), threads=1)
    cache = decoder.new_cache(64)
    decoder.forward(IDS[:, :40], cache)
    for token in range(40, 60):
        decoder.forward(IDS[:, token : token + 1], cache)
    assert held(cache).max() == 127
    assert held(cache).min() <= -127


def test_scales_survive_the_folder(tmp_path: Path, scales: KVScales) -> None:
    config = InMemoryWeights.random().config
    assert read_kv_scales(tmp_path, config) is None
    write_kv_scales(tmp_path, scales)
    found = read_kv_scales(tmp_path, config)
    assert found is not None
    np.testing.assert_array_equal(found.keys, scales.keys)
    np.testing.assert_array_equal(found.values, scales.values)


@pytest.mark.parametrize("damage", ["shape", "negative", "nan"])
def test_damaged_scales_are_refused(tmp_path: Path, scales: KVScales, damage: str) -> None:
    keys = scales.keys.copy()
    if damage == "shape":
        keys = keys[:1]
    else:
        keys[0, 0, 0] = -1 if damage == "negative" else np.nan
    write_kv_scales(tmp_path, KVScales(keys, scales.values))
    with pytest.raises(InputError, match=KV_SCALES_FILE):
        read_kv_scales(tmp_path, InMemoryWeights.random().config)
