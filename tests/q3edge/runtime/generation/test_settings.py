"""Settings come from a dict or names; anything else is refused. `test_checkpoint_settings` has those of files."""

from __future__ import annotations

from dataclasses import fields

import pytest

from q3edge.errors import UsageError
from q3edge.runtime.generation.setting_table import SETTINGS
from q3edge.runtime.generation.settings import GenerationSettings


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
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: expected 0, or 0.001-100"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": -1}, "top_k = -1"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"seed": -1}, "seed = -1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"top_p": float("inf")}, "top_p = inf: expected above 0 and at most 1"),
        ({"min_p": 1.1}, r"min_p = 1.1: expected 0 \(off\) to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0: expected 0.01-100"),
        ({"presence_penalty": float("nan")}, "presence_penalty = nan"),
        ({"stop_strings": [""]}, "stop_strings = .*: expected at most 64 texts of 1 to 1000 characters"),
        ({"stop_strings": ["x"] * 65}, "stop_strings = .*: expected at most 64 texts"),
        ({"logit_bias": {3: 101}}, r"logit_bias = .*: expected -100 to 100, for at most 1024 tokens"),
        ({"logit_bias": {3: float("nan")}}, "logit_bias = "),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, r"logit_bias = .{60}\.\.\.: expected"),
        ({"logprobs": 21}, "logprobs = 21: expected 0-20"),
        ({"logprobs": -1}, "logprobs = -1: expected 0-20"),
        ({"stop_strings": "x" * 1001}, r"stop_strings = .{60}\.\.\.: expected"),
    ],
)
def test_bad_settings(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerationSettings(**fields)  # type: ignore[arg-type]


def test_every_field_is_in_the_table_and_its_default_is_valid() -> None:
    assert [field.name for field in fields(GenerationSettings)] == list(SETTINGS)


def test_ids_that_the_model_does_not_have() -> None:
    for name in ("stop_token_ids", "suppress_tokens", "begin_suppress_tokens"):
        GenerationSettings(**{name: [0, 9]}).check_ids(10)  # type: ignore[arg-type]
        for foreign in (10, -1):
            with pytest.raises(UsageError, match=f"{name}: token id {foreign}: the model has ids 0 to 9"):
                GenerationSettings(**{name: [3, foreign]}).check_ids(10)  # type: ignore[arg-type]


def test_biases_are_a_dict_of_token_ids_and_numbers() -> None:
    settings = GenerationSettings(logit_bias={9: -100, 3: 0.5})  # type: ignore[arg-type]
    assert settings.logit_bias == ((3, 0.5), (9, -100.0))
    assert settings.override(logit_bias={1: 2}).logit_bias == ((1, 2.0),)
    assert settings.override(temperature=1).logit_bias == settings.logit_bias
    assert hash(settings) == hash(GenerationSettings(logit_bias=settings.logit_bias))
    for bad in (5, "12", {"9": 1}, {9: "x"}, {True: 1}, [(1, 2, 3)], [1]):
        with pytest.raises(TypeError, match="logit_bias: give a dict of token ids and numbers"):
            GenerationSettings(logit_bias=bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="logit_bias: token id 9: the model has ids 0 to 8"):
        settings.check_ids(9)


def test_answers_to_one_prompt_have_seeds_of_their_own() -> None:
    settings = GenerationSettings(seed=7)
    assert [settings.for_answer(index).seed for index in range(3)] == [7, 8, 9]
    assert GenerationSettings().for_answer(4) == GenerationSettings()
