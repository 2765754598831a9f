"""What the files of sentence-transformers say of a folder, in the forms of its versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q3edge.artifact.sentence_files import query_prompt, stated_kind
from q3edge.errors import InputError
from tests.helpers.embedding import write_modules

TRANSFORMER, POOLING, NORMALIZE = (
    f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")
)
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
LAST = {"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True, "include_prompt": True}


def write_pooling(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("fields", [LAST, {"embedding_dimension": 64, "pooling_mode": "lasttoken"}])
@pytest.mark.parametrize("modules", [[TRANSFORMER, POOLING, NORMALIZE], [TRANSFORMER, POOLING]])
def test_last_token_pooling_is_an_embedding_in_every_version(
    fields: dict[str, Any], modules: list[str], tmp_path: Path
) -> None:
    write_modules(tmp_path, modules)
    write_pooling(tmp_path, fields)
    assert stated_kind(tmp_path) == "embedding"


def test_other_modules_are_a_reranker_or_say_nothing(tmp_path: Path) -> None:
    assert stated_kind(tmp_path) is None
    write_modules(tmp_path, [TRANSFORMER])
    assert stated_kind(tmp_path) is None
    write_modules(tmp_path, [TRANSFORMER, LOGIT_SCORE])
    assert stated_kind(tmp_path) == "reranker"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "pooling mean_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, "pooling mean_tokens, lasttoken"),
        ({"pooling_mode": ["cls", "lasttoken"]}, "pooling cls, lasttoken"),
        ({}, "pooling none"),
    ],
)
def test_another_pooling_is_refused(fields: dict[str, Any], found: str, tmp_path: Path) -> None:
    write_modules(tmp_path, [TRANSFORMER, POOLING, NORMALIZE])
    write_pooling(tmp_path, fields)
    with pytest.raises(InputError, match=rf"1_Pooling.config\.json: {found}: expected that of the last token"):
        stated_kind(tmp_path)


def test_what_follows_the_pooling_is_not_left_out_in_silence(tmp_path: Path) -> None:
    write_modules(tmp_path, [TRANSFORMER, POOLING, "sentence_transformers.models.Dense", NORMALIZE])
    write_pooling(tmp_path, LAST)
    with pytest.raises(InputError, match=r"modules Transformer, Pooling, Dense, Normalize: expected"):
        stated_kind(tmp_path)


@pytest.mark.parametrize("content", ["{}", '[1, {}, {"type": 3}, []]', "nothing", "[" * 100_000])
def test_broken_modules_say_nothing_or_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(content)
    if content.startswith("[1"):
        assert stated_kind(tmp_path) is None
        return
    with pytest.raises(InputError, match=r"modules\.json: "):
        stated_kind(tmp_path)


def test_the_prompt_of_queries_is_the_files_own(tmp_path: Path) -> None:
    assert query_prompt(tmp_path) == ""
    path = tmp_path / "config_sentence_transformers.json"
    for content, expected in (({"prompts": {"query": "Q: "}}, "Q: "), ({"prompts": {}}, ""), ({}, "")):
        path.write_text(json.dumps(content))
        assert query_prompt(tmp_path) == expected
    for broken in ({"prompts": {"query": 3}}, {"prompts": [1]}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="prompts: expected an object with a text"):
            query_prompt(tmp_path)
