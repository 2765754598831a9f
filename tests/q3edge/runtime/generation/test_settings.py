"""Settings come from a checkpoint's file, a dict or names; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import InputError, UsageError
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.models import tiny_config

CONFIG = Qwen3Config.from_dict(tiny_config(eos_token_id=[7, 9]))


def test_a_folder_without_the_file_is_greedy_and_stops_at_the_models_own_tokens(tmp_path: Path) -> None:
    assert GenerationSettings.load(tmp_path, CONFIG) == GenerationSettings(stop_token_ids=frozenset({7, 9}))


def test_later_ones_win_and_none_leaves_what_was() -> None:
    base = GenerationSettings(5, 0.5, seed=1)
    assert base.override({"temperature": 1, "seed": None}, seed=2) == GenerationSettings(5, 1, seed=2)
    assert base.override({"temperature": 1}, temperature=2.0).temperature == 2.0
    assert base.override(GenerationSettings(9), top_k=None) == GenerationSettings(9)
    assert base.override(None) == base


def test_settings_without_stop_tokens_keep_the_models_own() -> None:
    own = GenerationSettings(stop_token_ids=frozenset({7}))
    assert own.override(GenerationSettings(9), seed=1) == GenerationSettings(9, seed=1, stop_token_ids=frozenset({7}))
    assert own.override(GenerationSettings(stop_token_ids=frozenset())).stop_token_ids == frozenset()


def test_stop_tokens_in_any_collection() -> None:
    expected = frozenset({3, 4})
    for given in ([3, 4, 3], (4, 3), {3, 4}, expected):
        assert GenerationSettings(stop_token_ids=given).stop_token_ids == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"do_sample": True, "temperature": "hot"}, "temperature = 'hot': expected a number"),
        ({"do_sample": True, "top_p": 0}, "top_p = 0.0: expected above 0"),
        ({"do_sample": True, "top_k": 1.5}, "top_k = 1.5: expected a number"),
        ({"eos_token_id": ["x"]}, "eos_token_id = .*expected token ids"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: expected at least 1"),
    ],
)
def test_bad_generation_config(tmp_path: Path, raw: dict[str, object], message: str) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=f"generation_config.json: {message}"):
        GenerationSettings.load(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: expected 0, or 0.001-100"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"seed": -1}, "seed = -1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
    ],
)
def test_bad_settings(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerationSettings(**fields)  # type: ignore[arg-type]
