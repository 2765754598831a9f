"""Steps of a sweep are counted aloud."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from q3edge import progress
from q3edge.pipeline.sweep.steps import counted_steps


def test_u15_a_sweep_says_which_of_how_many_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    times = iter([0.0, 120.0, 360.0])
    names = [SimpleNamespace(name=name) for name in ("int8", "int4", "float")]
    assert list(counted_steps(names, "build", lambda: next(times))) == names
    assert notes == [
        "1 of 3, int8: build",
        "2 of 3, int4: build, about 4 min left",
        "3 of 3, float: build, about 3 min left",
    ]
