"""Saved prefixes: what comes back computes what was saved, for its own model alone, and nobody else notices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from q3edge.calibration.layers.kv_scales import kv_scales
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.storage.array_file import ArrayFile, read_arrays, write_arrays
from tests.helpers.models import InMemoryWeights
from tests.helpers.runtime import write_artifact

RNG = np.random.default_rng(0)
TEXT = [int(token) for token in RNG.integers(2, 290, 300)]  # more than a chunk
REST = [int(token) for token in RNG.integers(2, 290, 40)]


@pytest.fixture(scope="module", params=["float32", "int8"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model with either type of cache."""
    scales = kv_scales(InMemoryWeights.random(), RNG.integers(0, 320, (4, 64))) if request.param == "int8" else None
    return write_artifact(tmp_path_factory.mktemp("model") / "artifact", scales, eos_token_id=297)


@pytest.fixture
def model(folder: Path) -> Iterator[Model]:
    with Model.open(folder, threads=1) as model:
        yield model


@pytest.fixture
def other(folder: Path) -> Iterator[Model]:
    """The same model in what may be another process."""
    with Model.open(folder, threads=1) as model:
        yield model


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def continued(model: Model) -> NDArray[np.float32]:
    """Logits of a text that goes on behind TEXT: of several tokens at once, then of one after another."""
    slot = model.engine.slots.take([*TEXT, *REST], len(TEXT))
    assert slot is not None
    assert slot.ids == TEXT
    found = [model.engine.slots.extend(slot, REST[:20], keep=20).copy()]
    found += [model.engine.slots.extend(slot, [token]).copy() for token in REST[20:]]
    model.engine.slots.give_back(slot)
    return np.concatenate(found)


def test_a_restored_prefix_gives_the_logits_of_the_computed_one(model: Model, other: Model, tmp_path: Path) -> None:
    path = tmp_path / "new" / "prefix"
    assert model.save_prefix(path, TEXT) == other.load_prefix(path) == len(TEXT)
    np.testing.assert_array_equal(continued(other), continued(model))


def test_what_was_cached_already_is_not_computed_for_saving(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = model.generate(TEXT, max_new_tokens=8, temperature=0)
    assert model.save_prefix(tmp_path / "all") == len(TEXT) + len(done.token_ids) - 1  # the last goes through no pass
    monkeypatch.setattr(type(model.decoder), "forward", None)
    assert model.save_prefix(tmp_path / "part", TEXT[:50]) == 50
    ids = read_arrays(tmp_path / "part")[0]["token_ids"]
    assert ids.tolist() == TEXT[:50]


def test_the_next_turn_of_a_restored_conversation_is_computed_from_its_end(
    model: Model, other: Model, tmp_path: Path
) -> None:
    asked = [{"role": "user", "content": "the cat"}]
    first = model.chat(asked, max_new_tokens=8, temperature=0)  # type: ignore[arg-type]
    model.save_prefix(tmp_path / "prefix")
    talk = [*asked, {"role": "assistant", "content": first.text}, {"role": "user", "content": "the dog"}]
    other.load_prefix(tmp_path / "prefix")
    both = [each.chat(talk, max_new_tokens=8, temperature=0) for each in (model, other)]  # type: ignore[arg-type]
    assert both[0].token_ids == both[1].token_ids
    assert both[0].stats.reused_tokens == both[1].stats.reused_tokens >= first.stats.prompt_tokens


def test_running_generations_do_not_notice(model: Model, other: Model, tmp_path: Path) -> None:
    model.save_prefix(tmp_path / "prefix", TEXT)
    settings = GenerationSettings(30)
    expected = other.generate(REST, settings).token_ids
    stream = other.stream_raw(REST, settings)
    for step in range(4):
        next(stream)
        assert other.load_prefix(tmp_path / "prefix") == len(TEXT)
        other.save_prefix(tmp_path / f"{step}", TEXT)
        assert (tmp_path / f"{step}").read_bytes() == (tmp_path / "prefix").read_bytes()
    assert stream.finish().token_ids == expected


def test_a_prefix_counts_in_the_memory_for_keys_and_values(model: Model, folder: Path, tmp_path: Path) -> None:
    model.save_prefix(tmp_path / "prefix", TEXT)
    model.save_prefix(tmp_path / "short", TEXT[:20])
    each = model.decoder.cache_spec.bytes_per_token()
    with Model.open(folder, threads=1, kv_memory=256 * each) as small:
        small.generate(REST, max_new_tokens=4)
        held = small.engine.slots.last_ended
        with pytest.raises(UsageError, match=rf"prefix of 300 tokens takes .*{512 * each / 2**20:.1f} MiB") as refused:
            small.load_prefix(tmp_path / "prefix")
        assert "allow more (kv_memory)" in str(refused.value)
        assert small.engine.slots.last_ended == held
        assert small.load_prefix(tmp_path / "short") == 20
        assert small.engine.slots.last_ended == TEXT[:20]
        stream = small.stream_raw(REST, max_new_tokens=40, temperature=0)
        next(stream)
        with pytest.raises(UsageError, match="running texts take"):
            small.load_prefix(tmp_path / "short")
        assert stream.finish().stats.new_tokens == 40


def test_without_a_slot_to_spare_nothing_is_restored(model: Model, folder: Path, tmp_path: Path) -> None:
    model.save_prefix(tmp_path / "prefix", TEXT)
    with Model.open(folder, threads=1, max_batch=1) as lone, lone.stream_raw(REST, max_new_tokens=9) as stream:
        next(stream)
        with pytest.raises(UsageError, match="all slots are taken"):
            lone.load_prefix(tmp_path / "prefix")


def test_what_cannot_be_saved_or_used_is_said(model: Model, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text is cached"):
        model.save_prefix(tmp_path / "prefix")
    with pytest.raises(UsageError, match="prompt is empty"):
        model.save_prefix(tmp_path / "prefix", [])
    with pytest.raises(UsageError, match="the model's context is 512 tokens"):
        model.save_prefix(tmp_path / "prefix", [5] * 512)
    assert not os.listdir(tmp_path)
    model.save_prefix(tmp_path / "prefix", TEXT)
    with pytest.raises(ResourceError, match="cannot be written"):
        model.save_prefix(tmp_path / "prefix" / "below", TEXT)
    with Model.open(folder, threads=1, deterministic=True) as exact, pytest.raises(UsageError, match="deterministic"):
        exact.load_prefix(tmp_path / "prefix")
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.load_prefix(tmp_path / "prefix")


def test_only_a_prefix_of_this_model_is_restored(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "prefix"
    with pytest.raises(InputError, match="prefix: not found"):
        model.load_prefix(path)
    with pytest.raises(InputError, match="cannot be read"):
        model.load_prefix(tmp_path)
    model.save_prefix(path, TEXT)
    arrays, note = read_arrays(path)
    first = next(name for name in arrays if name != "token_ids")
    cases = [
        ({"token_ids": arrays["token_ids"]}, None, "no saved prefix"),
        (arrays, {**note, "kind": "x"}, "no saved prefix"),
        (arrays, {**note, "version": 2}, "another version than 1"),
        (arrays, {**note, "model": "0" * 64}, "another model"),
        ({**arrays, "token_ids": np.array(TEXT, np.int32) + 300}, note, "token ids .* the model has 0 to 319"),
        ({**arrays, "token_ids": -np.array(TEXT, np.int32)}, note, "token ids -"),
        ({**arrays, "token_ids": arrays["token_ids"][:-1]}, note, "not as this model's cache has it"),
        ({**arrays, "token_ids": arrays["token_ids"][:0]}, note, "a saved prefix of 0 tokens"),
        ({**arrays, "token_ids": np.zeros((), np.int32)}, note, "a saved prefix of 0 tokens"),
        ({**arrays, "token_ids": np.zeros(513, np.int32)}, note, "513 tokens; expected 1 to 512"),
        ({**arrays, "token_ids": arrays["token_ids"].astype(np.int64)}, note, "not as this model's"),
        ({**arrays, first: arrays[first].astype(np.float64)}, note, "not as this model's"),
        ({**arrays, first: arrays[first][:1]}, note, "not as this model's"),
        ({**arrays, "more": np.zeros(3)}, note, "array more is not"),
        ({name: array for name, array in arrays.items() if name != first}, note, f"array {first} is not"),
    ]
    for content, said, message in cases:
        write_arrays(path, content, said)
        with pytest.raises(InputError, match=message):
            model.load_prefix(path)
    assert model.engine.slots.last_ended == TEXT


def test_a_file_that_changes_while_it_is_read_is_noticed(
    model: Model, other: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of all bytes and their reading: the row is not used, and no byte behind the end is."""
    path = tmp_path / "prefix"
    model.save_prefix(path, TEXT)
    verify = ArrayFile.verify
    for damage, message in ((cut, "the file ends at byte"), (touch, "changed while it was read")):

        def verified(file: ArrayFile, workers: int, damage: Callable[[Path], None] = damage) -> None:
            verify(file, workers)
            damage(path)

        monkeypatch.setattr(ArrayFile, "verify", verified)
        model.save_prefix(path, TEXT)
        with pytest.raises(InputError, match=message):
            other.load_prefix(path)
    assert other.engine.slots.last_ended == []
    assert other.generate(TEXT, max_new_tokens=1).stats.reused_tokens == 0
