"""The cache of evaluations: what is kept comes back bit for bit, what is damaged does not, and where it all lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from q3edge.errors import ResourceError
from q3edge.evaluation import cache as module
from q3edge.evaluation.cache import EvaluationCache, cache_folder, cache_key
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.scorecard.reading_journal import ReadingJournal
from q3edge.evaluation.scorecard.readings import Place, Reading
from q3edge.storage.code_digest import code_digest
from tests.helpers.reports import scorecard

RANDOM = np.random.default_rng(0)


def reading(tokens: int = 5) -> Reading:
    place = Place(3, 0.1 + 0.2, ((7, 1 / 3), (8, 0.1)), ((8, 0.5),))
    return Reading(TokenMetrics(*RANDOM.random((6, tokens))), place, 1, None)


def same(a: Reading | None, b: Reading | None) -> bool:
    if a is None or b is None:
        return a is b
    names = TokenMetrics.__slots__
    equal = all(np.array_equal(getattr(a.metrics, name), getattr(b.metrics, name)) for name in names)
    return equal and (a.worst, a.reference_choice, a.candidate_choice) == (
        b.worst,
        b.reference_choice,
        b.candidate_choice,
    )


def test_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("Q3EDGE_CACHE", "/q")
    assert cache_folder() == Path("/q/evaluations")
    monkeypatch.delenv("Q3EDGE_CACHE")
    assert cache_folder() == Path("/x/q3edge/evaluations")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/q3edge/evaluations"


def test_keys() -> None:
    assert cache_key(a=1, b="x") == cache_key(b="x", a=1) != cache_key(a=1, b="y")


def test_scorecards(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    assert cache.scorecard("k") is None
    cache.save_scorecard("k", scorecard("a", 0.1, 98.0))
    assert cache.scorecard("k") == scorecard("a", 0.1, 98.0)
    (path,) = (tmp_path / "scorecards").iterdir()
    whole = path.read_text()
    for damaged in (whole[:-9], whole.replace('"seconds": ', '"seconds": 1'), "", "{}"):
        assert damaged != whole
        path.write_text(damaged)
        assert cache.scorecard("k") is None


def test_measurements(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    cache.save_measurement("k", {"a": [1 / 3]})
    assert cache.measurement("k") == {"a": [1 / 3]}
    assert cache.measurement("l") is None
    (path,) = (tmp_path / "measurements").iterdir()
    path.write_text(path.read_text().replace("0.3", "0.4"))
    assert cache.measurement("k") is None


def test_hidden_states(tmp_path: Path) -> None:
    cache = EvaluationCache(tmp_path)
    states = RANDOM.random((5, 3)).astype(np.float32)
    cache.save_hidden("k", states)
    found = cache.hidden("k", 5)
    assert found is not None
    np.testing.assert_array_equal(found, states)
    assert cache.hidden("k", 6) is None
    (path,) = (tmp_path / "hidden").iterdir()
    whole = path.read_bytes()
    damaged = [b"", b"\0" * 100, whole[:-4], whole + b"\0"]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in damaged:
        path.write_bytes(content)
        assert cache.hidden("k", 5) is None
    cache.save_hidden("k", states)
    assert cache.hidden("k", 5) is not None


def test_what_other_code_made_is_never_answered_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EvaluationCache(tmp_path)
    states = np.ones((5, 3), np.float32)

    def fill() -> None:
        cache.save_hidden("k", states)
        cache.save_scorecard("k", scorecard("a", 0.1, 98.0))
        cache.save_measurement("k", 3)
        cache.journal_file("k").write_text("x")
        cache.answers_file("k").write_text("x")
        cache.float_folder("k").mkdir()

    fill()
    names = {path.parent.name: path.name for path in tmp_path.glob("*/*")}
    assert len(names) == 6
    monkeypatch.setattr(module, "code_digest", lambda *names: "0" * 64)
    assert cache.hidden("k", 5) is None
    assert cache.scorecard("k") is None
    assert cache.measurement("k") is None
    for path in (cache.journal_file("k"), cache.answers_file("k"), cache.float_folder("k")):
        assert not path.exists()
    fill()
    found = {path.parent.name: path.name for path in tmp_path.glob("*/*")}
    assert len(list(tmp_path.glob("*/*"))) == 6  # what the other code made is gone
    assert all(found[kind] != name for kind, name in names.items())


def test_every_kind_of_entry_knows_its_code() -> None:
    for names in module._CODE.values():
        assert code_digest(*names)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be written.*--no-cache"):
        EvaluationCache(tmp_path / "file").save_scorecard("k", scorecard("a", 0.1, 98.0))


def test_journal_survives_a_line_cut_short(tmp_path: Path) -> None:
    path, readings = tmp_path / "j.jsonl", [reading(), None, reading(2)]
    with ReadingJournal(path) as journal:
        for number, made in enumerate(readings):
            journal.append(number, made)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[2][:-30])
    with ReadingJournal(path) as journal:
        found = journal.load()
        assert list(found) == [0, 1]
        assert all(same(found[number], readings[number]) for number in found)
        journal.append(2, readings[2])
        assert same(journal.load()[2], readings[2])
        path.write_bytes(lines[0].replace(b"0.5", b"0.6") + lines[1])
        assert list(journal.load()) == [1]  # one wrong digit is not read
        journal.discard()
    assert not path.exists()
