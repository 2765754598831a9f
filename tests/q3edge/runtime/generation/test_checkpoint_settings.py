"""A checkpoint's own settings are read as transformers reads them; what is not followed is a notice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import GenerationConfig

from q3edge.architecture.config import Qwen3Config
from q3edge.errors import InputError
from q3edge.runtime.generation.checkpoint_settings import checkpoint_settings
from q3edge.runtime.generation.settings import GenerationSettings
from tests.helpers.models import tiny_config

CONFIG = Qwen3Config.from_dict(tiny_config(eos_token_id=[7, 9]))


def read(folder: Path, raw: Mapping[str, object]) -> GenerationSettings:
    (folder / "generation_config.json").write_text(json.dumps(raw))
    found = checkpoint_settings(folder, CONFIG)
    assert found.notices == ()
    return found.settings


def test_a_folder_without_the_file_is_greedy_and_stops_at_the_models_own_tokens(tmp_path: Path) -> None:
    expected = GenerationSettings(stop_token_ids=frozenset({7, 9}))
    assert checkpoint_settings(tmp_path, CONFIG).settings == expected


def test_l7_sampling_without_top_k_means_transformers_default(tmp_path: Path) -> None:
    assert GenerationConfig._get_default_generation_params()["top_k"] == 50
    assert read(tmp_path, {"do_sample": True}).top_k == 50
    assert read(tmp_path, {"do_sample": True, "top_k": None}).top_k == 50
    assert read(tmp_path, {"do_sample": True, "top_k": 0}).top_k == 0
    assert read(tmp_path, {"top_k": 7}).top_k == 0


def in_conversation(folder: Path, raw: Mapping[str, object]) -> list[tuple[float, int, float, float]]:
    """Temperature, top_k, top_p and min_p of answers that do not think, and of those that do."""
    (folder / "generation_config.json").write_text(json.dumps(raw))
    both = checkpoint_settings(folder, CONFIG).conversation
    return [(own.temperature, own.top_k, own.top_p, own.min_p) for own in (both[False], both[True])]


def test_conversations_follow_qwen_where_the_file_is_silent(tmp_path: Path) -> None:
    recommended = [(0.7, 20, 0.8, 0.0), (0.6, 20, 0.95, 0.0)]
    both = checkpoint_settings(tmp_path, CONFIG).conversation  # no file
    assert [(own.temperature, own.top_k, own.top_p, own.min_p) for own in (both[False], both[True])] == recommended
    silent: list[dict[str, object]] = [{}, {"do_sample": True}, {"do_sample": None, "top_p": None}, {"eos_token_id": 8}]
    for raw in silent:
        assert in_conversation(tmp_path, raw) == recommended
    assert in_conversation(tmp_path, {"do_sample": False, "temperature": 0.9}) == [(0.0, 0, 1.0, 0.0)] * 2
    given = {"temperature": 0.3, "top_k": 5, "top_p": 0.4, "min_p": 0.1}
    assert in_conversation(tmp_path, given) == [(0.3, 5, 0.4, 0.1)] * 2
    assert in_conversation(tmp_path, {"top_k": 0, "do_sample": True}) == [(0.7, 0, 0.8, 0.0), (0.6, 0, 0.95, 0.0)]
    assert read(tmp_path, given).temperature == 0.0  # plain text: as transformers


def test_conversations_differ_from_plain_text_in_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.3, "max_new_tokens": 9}')
    own = checkpoint_settings(tmp_path, CONFIG)
    for thinks in (True, False):
        same = own.conversation[thinks].override(temperature=0.0, top_k=0, top_p=1.0)
        assert same == own.settings


def test_l8_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    names = ("temperature", "top_p", "min_p", "max_new_tokens", "max_length", "eos_token_id", "repetition_penalty")
    assert read(tmp_path, {"do_sample": True, **dict.fromkeys(names)}) == read(tmp_path, {"do_sample": True})
    assert read(tmp_path, {"suppress_tokens": None, "stop_strings": None, "num_beams": None}) == read(tmp_path, {})


def test_l7_max_length_counts_the_prompt_and_gives_way_to_max_new_tokens(tmp_path: Path) -> None:
    own = read(tmp_path, {"max_length": 400})
    assert (own.max_length, own.max_new_tokens) == (400, 400)
    assert own.override(max_new_tokens=5).max_length is None
    assert read(tmp_path, {"max_length": 400, "max_new_tokens": 9}).max_length is None
    assert read(tmp_path, {"max_length": 20}).max_length is None  # what transformers wrote where nobody set it


def test_l7_what_is_not_followed_is_a_notice(tmp_path: Path) -> None:
    raw = {
        "num_beams": 4,
        "typical_p": 0.9,
        "bad_words_ids": [[1]],
        "penalty_alpha": 0.0,
        "top_h": None,
        "use_cache": 1,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    (notice,) = checkpoint_settings(tmp_path, CONFIG).notices
    assert (notice.code, notice.count) == ("generation-setting-ignored", 3)
    assert notice.detail.startswith("generation_config.json: num_beams, typical_p, bad_words_ids have no effect")


def test_l20_the_end_token_of_the_tokenizer_stops_too_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    found = checkpoint_settings(tmp_path, CONFIG, {"<|im_end|>": 30}.get)
    assert found.settings.stop_token_ids == frozenset({7, 9, 30})
    assert [notice.code for notice in found.notices] == ["end-token-added"]
    assert "<|im_end|>" in found.notices[0].detail
    known = checkpoint_settings(tmp_path, CONFIG, {"<|im_end|>": 9}.get)
    assert (known.settings.stop_token_ids, known.notices) == (frozenset({7, 9}), ())


def test_an_end_token_that_the_model_does_not_have_is_dropped_and_told(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 4000]}')
    found = checkpoint_settings(tmp_path, CONFIG)
    assert found.settings.stop_token_ids == frozenset({7, 8, 9})
    assert [notice.code for notice in found.notices] == ["end-token-unknown"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ('{"do_sample": true, "temperature": "hot"}', "temperature = 'hot': expected a number"),
        ('{"do_sample": true, "top_p": 0}', "top_p = 0: expected above 0"),
        ('{"do_sample": true, "top_p": 1e400}', "top_p = inf: expected a finite number"),
        ('{"do_sample": true, "temperature": NaN}', "temperature = nan: expected a finite number"),
        (f'{{"do_sample": true, "temperature": 1{"0" * 400}}}', ".*too large"),
        ('{"do_sample": true, "top_k": 1.5}', "top_k: give a whole number, not 1.5"),
        ('{"top_p": 7}', "top_p = 7: expected above 0"),
        ('{"eos_token_id": ["x"]}', "eos_token_id = .*expected token ids"),
        ('{"suppress_tokens": [320]}', "suppress_tokens: token id 320: the model has ids 0 to 319"),
        ('{"max_new_tokens": 0}', "max_new_tokens = 0: expected at least 1"),
        ('{"max_length": "x"}', "max_length = 'x': expected a number"),
        ('{"stop_strings": 5}', "stop_strings: give a text or a list of texts, not 5"),
    ],
)
def test_r14_bad_generation_config(tmp_path: Path, raw: str, message: str) -> None:
    (tmp_path / "generation_config.json").write_text(raw)
    with pytest.raises(InputError, match=f"generation_config.json: {message}"):
        checkpoint_settings(tmp_path, CONFIG)
