"""Cutting text into windows: nothing lost, nothing predicted twice, every text heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.areas import AREAS
from q3edge.errors import InputError, UsageError
from q3edge.evaluation.distance.windows import (  # fmt: skip
    MIN_SCORED,
    Text,
    Window,
    built_in_texts,
    cut_windows,
    padded_inputs,
    read_texts,
)


def encode(text: str) -> list[int]:
    return list(text.encode())


def numbered(count: int, name: str = "a") -> Text:
    return Text(name, "".join(chr(33 + i % 90) for i in range(count)))


@given(st.integers(MIN_SCORED + 1, 700), st.integers(MIN_SCORED, 100))
@settings(max_examples=60, deadline=None)
def test_every_token_is_predicted_once_but_a_short_rest(count: int, length: int) -> None:
    text = numbered(count)
    windows = cut_windows([text], encode, context=100, length=length, max_tokens=10**6)
    predicted = np.concatenate([window.targets for window in windows])
    assert predicted.tolist() == encode(text.content)[1 : len(predicted) + 1]
    assert 0 <= count - 1 - len(predicted) < MIN_SCORED
    assert all(MIN_SCORED <= len(window.inputs) <= length for window in windows)
    assert all((window.inputs[1:] == window.targets[:-1]).all() for window in windows)


@given(st.integers(MIN_SCORED, 500))
@settings(max_examples=30, deadline=None)
def test_max_tokens_is_kept_and_used(limit: int) -> None:
    windows = cut_windows([numbered(300, "a"), numbered(200, "b")], encode, context=64, length=50, max_tokens=limit)
    assert limit - MIN_SCORED < sum(len(window.inputs) for window in windows) <= limit or limit > 480


def test_texts_take_turns() -> None:
    texts = [numbered(500, "a"), numbered(60, "b"), numbered(500, "c")]
    windows = cut_windows(texts, encode, context=50, length=50, max_tokens=200)
    assert [window.text for window in windows] == ["a", "b", "c", "a"]


def test_padding_is_on_the_right() -> None:
    windows = [Window("a", np.array([1, 2, 3, 4])), Window("a", np.array([5, 6]))]
    assert padded_inputs(windows).tolist() == [[1, 2, 3], [5, 0, 0]]


def test_built_in_texts_cover_the_areas() -> None:
    texts = built_in_texts()
    assert [text.name for text in texts] == list(AREAS)
    assert all(3000 <= len(text.content.encode()) <= 5000 for text in texts)


@pytest.mark.parametrize("length", [MIN_SCORED - 1, 101])
def test_length_beyond_the_context(length: int) -> None:
    with pytest.raises(UsageError, match=rf"window length {length}: expected 16\.\.100, the model's context"):
        cut_windows([numbered(200)], encode, context=100, length=length)


def test_too_few_tokens_asked_for() -> None:
    with pytest.raises(UsageError, match="max tokens 15: expected at least 16"):
        cut_windows([numbered(200)], encode, context=100, length=50, max_tokens=15)


def test_text_too_short() -> None:
    with pytest.raises(InputError, match="short: 16 tokens; expected at least 17"):
        cut_windows([numbered(16, "short")], encode, context=100, length=50)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"ma\xf1ana")
    with pytest.raises(InputError, match=r"latin\.txt, line 1: not UTF-8 text \(byte 2\)"):
        read_texts([path])


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read \(No such file"):
        read_texts([tmp_path / "gone.txt"])


def test_files_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("héllo", encoding="utf-8")
    assert read_texts([tmp_path / "b.txt"]) == [Text("b.txt", "héllo")]
