"""The float reference's hidden states in the cache: a damaged entry is computed again, never a wrong number."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from q3edge.evaluation.cache import EvaluationCache
from q3edge.evaluation.distance.references import FloatReference
from q3edge.evaluation.distance.windows import Window
from tests.helpers.calibration import flipped
from tests.helpers.models import InMemoryWeights


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(flipped(path.read_bytes(), 45)),
        lambda path: path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) - 3)),
        fifo,
    ],
    ids=["empty", "cut", "header", "one byte", "no file"],
)
def test_r7_a_damaged_hidden_state_is_computed_again(damage: Callable[[Path], object], tmp_path: Path) -> None:
    windows = [Window("t", np.random.default_rng(0).integers(0, 320, 9))]

    def logits() -> tuple[bytes, int]:
        reference = FloatReference(InMemoryWeights.random(1), "digest", EvaluationCache(tmp_path))
        (chunks,) = reference.logits(windows)
        return b"".join(part.tobytes() for part in chunks), reference.cached_tokens

    expected, _ = logits()
    assert logits() == (expected, 8)
    (path,) = (tmp_path / "hidden").iterdir()
    damage(path)
    assert logits() == (expected, 0)
    assert logits() == (expected, 8)
