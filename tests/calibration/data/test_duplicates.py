"""Duplicates equal those that a plain comparison of all pairs finds; hashes are the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from q3edge.calibration.data.duplicates import SHINGLE_WORDS, THRESHOLD, find_duplicates, jaccard, shingles, signature
from q3edge.calibration.data.words import words_of

ROOT = Path(__file__).resolve().parents[3]


def naive_shingles(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def naive_jaccard(first: str, second: str) -> float:
    a, b = naive_shingles(first), naive_shingles(second)
    return len(a & b) / len(a | b)


def naive_duplicates(texts: list[str]) -> set[int]:
    kept: list[str] = []
    found = set()
    for index, text in enumerate(texts):
        if any(naive_jaccard(text, other) >= THRESHOLD for other in kept):
            found.add(index)
        else:
            kept.append(text)
    return found


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Texts of random words and variants of them with some words changed: similarities of every size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    texts = []
    for _ in range(draw(st.integers(1, 4))):
        base = [f"w{n}" for n in rng.integers(0, 200, draw(st.integers(1, 120)))]
        for _ in range(draw(st.integers(1, 5))):
            variant = list(base)
            for position in rng.integers(0, len(base), draw(st.integers(0, 4))):
                variant[position] = "changed"
            texts.append(" ".join(variant))
    rng.shuffle(texts)
    return texts


@settings(max_examples=60, deadline=None)
@given(families())
def test_duplicates_are_those_of_all_pairs(texts: list[str]) -> None:
    assert set(find_duplicates(texts)) == naive_duplicates(texts)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
def test_jaccard_is_exact(first: list[str], second: list[str]) -> None:
    found = jaccard(shingles(first), shingles(second))
    assert found == naive_jaccard(" ".join(first), " ".join(second))


def test_signatures_estimate_the_similarity() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for share in np.linspace(0, 1, 60):
        common, rest = int(400 * share), 400 - int(400 * share)
        numbers = rng.permutation(10_000)[: common + 2 * rest].astype(str)
        first, second = numbers[: common + rest], np.concatenate([numbers[:common], numbers[common + rest :]])
        one, two = (np.sort(np.concatenate([shingles([n]) for n in numbers])) for numbers in (first, second))
        errors.append((signature(one) == signature(two)).mean() - jaccard(one, two))
    assert abs(np.mean(errors)) < 0.015  # unbiased
    assert np.std(errors) < 0.05  # at most sqrt(0.25 / 128) each


def test_exact_ones_differ_at_most_in_case_blanks_and_marks() -> None:
    text = "The cat sat on the mat and looked at the dog."
    assert find_duplicates([text, text.upper() + "\n", text + " Then it slept until the evening came.", text]) == {
        1: "duplicate", 3: "duplicate",
    }  # fmt: skip


def test_a_copy_of_a_dropped_text_is_dropped_too() -> None:
    words = [f"w{n}" for n in range(200)]
    near = " ".join(["new", *words[1:]])
    assert find_duplicates([" ".join(words), near, near]) == {1: "near-duplicate", 2: "near-duplicate"}


def test_texts_without_words() -> None:
    assert find_duplicates(["+", "-", "", "+"]) == {3: "duplicate"}


def test_every_process_computes_the_same_signature() -> None:
    code = (
        "from q3edge.calibration.data.duplicates import *; "
        "print(signature(shingles('a b c d e f g'.split())).tobytes().hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
