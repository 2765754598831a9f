"""Conversations end to end on a tiny model: bad inputs 34 and 36, settings, stopping, streaming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import InputError, UsageError
from q3edge.runtime.generation.generate import Statistics, generate
from q3edge.runtime.generation.prefix_cache import PrefixCache
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.model import Model
from q3edge.runtime.text.chat_template import Message
from tests.helpers.runtime import seal, write_artifact

HELLO: list[Message] = [{"role": "user", "content": "the cat"}]
CHATTY = GenerationSettings(30, temperature=2.0, seed=1)  # its first tokens are text already


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("model") / "artifact", eos_token_id=297)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with Model.open(folder, threads=1) as model:
        yield model


def greedy(**fields: int) -> GenerationSettings:
    return GenerationSettings(**{"max_new_tokens": 12, **fields})


def test_prompt_longer_than_the_context(model: Model) -> None:
    long: list[Message] = [{"role": "user", "content": "é" * 600}]
    count = len(model.encode_chat(long))
    assert count > 512
    with pytest.raises(UsageError, match=f"prompt has {count} tokens, but the model's context is 512 tokens"):
        model.chat(long)
    with pytest.raises(UsageError, match="prompt is empty"):
        model.complete("")


def test_generation_ends_where_the_context_does(model: Model) -> None:
    stats = Statistics()
    new = list(generate(model.decoder, [5] * 500, greedy(max_new_tokens=10_000), stats))
    assert len(new) == stats.new_tokens == 12
    assert (stats.prompt_tokens, stats.finish_reason, stats.decode_steps) == (500, "length", 11)


def test_prefill_in_chunks_gives_the_same_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [i % 300 for i in range(3, 60)]
    whole = list(generate(model.decoder, prompt, greedy()))
    monkeypatch.setattr("q3edge.runtime.generation.generate.PREFILL_CHUNK", 7)
    assert list(generate(model.decoder, prompt, greedy())) == whole


def test_stop_token_ends_and_is_not_part(model: Model) -> None:
    prompt = model.encode_chat(HELLO)
    free = list(generate(model.decoder, prompt, greedy()))
    assert len(free) == 12
    stop = next(token for token in free if free.index(token) >= 2)
    stats = Statistics()
    settings = GenerationSettings(12, stop_token_ids=frozenset({stop}))
    assert list(generate(model.decoder, prompt, settings, stats)) == free[: free.index(stop)]
    assert stats.finish_reason == "stop"


@pytest.mark.parametrize("seed", range(4))
def test_streamed_pieces_join_to_the_completion(model: Model, seed: int) -> None:
    settings = model.settings(max_new_tokens=30, seed=seed, temperature=2.0, top_k=0)
    answer: list[str] = []
    thinking: list[str] = []
    done = model.chat(HELLO, settings, on_text=answer.append, on_thinking=thinking.append)
    assert ("".join(answer), "".join(thinking)) == (done.answer, done.thinking)
    assert done.text == model.tokenizer.decode(done.token_ids)
    assert model.chat(HELLO, settings).token_ids == done.token_ids
    assert json.loads(json.dumps(done.to_json()))["stats"]["new_tokens"] == len(done.token_ids)

    raw: list[str] = []
    completion = model.complete("<|im_start|>user\nthe", settings, on_text=raw.append)
    assert "".join(raw) == completion.text == completion.answer


def fresh_answer(model: Model, messages: list[Message], **named: Any) -> tuple[int, ...]:
    """What a model answers that has said nothing yet."""
    return replace(model, cache=PrefixCache(model.decoder)).chat(messages, greedy(), **named).token_ids


def test_a_second_turn_computes_only_what_is_new(model: Model) -> None:
    first = model.chat(HELLO, greedy())
    again = model.chat(HELLO, greedy())
    assert again.stats.reused_tokens == again.stats.prompt_tokens - 2
    assert again.token_ids == first.token_ids
    turns: list[Message] = [*HELLO, {"role": "assistant", "content": "the mat"}, {"role": "user", "content": "a dog"}]
    second = model.chat(turns, greedy())
    assert second.stats.reused_tokens >= len(model.encode_chat(HELLO))
    assert second.token_ids == fresh_answer(model, turns)
    assert second.to_json()["stats"]["reused_tokens"] == second.stats.reused_tokens


def test_thinking_that_the_template_drops_is_forgotten(model: Model) -> None:
    thought = "<think>\nthe log\n</think>\n\n"
    markup = f"<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n{thought}the mat"
    model.complete(markup, greedy(max_new_tokens=1))
    turns: list[Message] = [
        *HELLO,
        {"role": "assistant", "content": f"{thought}the mat"},
        {"role": "user", "content": "a dog"},
    ]
    second = model.chat(turns, greedy())
    assert second.stats.reused_tokens == len(model.encode_chat(HELLO))
    assert second.token_ids == fresh_answer(model, turns)


def test_an_answer_that_fails_half_way_does_not_disturb_the_next(model: Model) -> None:
    expected, pieces = fresh_answer(model, HELLO), []

    def fail(piece: str) -> None:
        pieces.append(piece)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.chat(HELLO, CHATTY, on_text=fail)
    assert len(pieces) == 1
    assert model.chat(HELLO, greedy()).token_ids == expected


def test_a_model_gives_one_answer_at_a_time(model: Model) -> None:
    expected = fresh_answer(model, HELLO)
    with pytest.raises(UsageError, match="the model is answering already"):
        model.chat(HELLO, CHATTY, on_text=lambda _piece: model.chat(HELLO) and None)
    assert model.chat(HELLO, greedy()).token_ids == expected


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_guessing_gives_the_same_answer(model: Model, folder: Path, temperature: float) -> None:
    settings = model.settings(max_new_tokens=60, temperature=temperature, seed=3)
    expected = model.chat(HELLO, settings)
    assert expected.stats.drafted_tokens == 0
    for flags in ({"speculate": True}, {"draft": folder}):
        with Model.open(folder, threads=1, **flags) as guessing:  # type: ignore[arg-type]
            found = guessing.chat(HELLO, settings)
        assert found.token_ids == expected.token_ids
        assert found.stats.decode_steps + found.stats.accepted_tokens == expected.stats.decode_steps


def test_a_draft_needs_the_same_vocabulary(folder: Path, tmp_path: Path) -> None:
    larger = write_artifact(tmp_path / "larger", vocab_size=352)
    with pytest.raises(
        InputError, match=rf"{larger}: its vocabulary \(352 rows\) is not that of {folder} \(320 rows\)"
    ):
        Model.open(folder, threads=1, draft=larger)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    written = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(written + "\n")  # other bytes, the same tokens
    seal(other)
    Model.open(folder, threads=1, draft=other).close()
    (other / "tokenizer.json").write_text(written.replace("<think>", "<thunk>"))
    seal(other)
    with pytest.raises(InputError, match=rf"{other}: its vocabulary"):
        Model.open(folder, threads=1, draft=other)


def test_raw_prompt_is_the_whole_input(model: Model) -> None:
    assert model.complete("<|im_start|>user\nthe", greedy(max_new_tokens=1)).stats.prompt_tokens == len(
        model.tokenizer.encode_markup("<|im_start|>user\nthe")
    )


def test_bad_input_is_a_usage_error(model: Model) -> None:
    with pytest.raises(UsageError, match="role 'root': expected one of"):
        model.chat([{"role": "root", "content": "x"}])
    with pytest.raises(UsageError, match="the prompt is not valid Unicode at character 0"):
        model.complete("\udcff")


def test_folder_without_a_template_needs_raw(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "tokenizer_config.json").unlink()
    seal(copy)
    with Model.open(copy, threads=1) as model:
        with pytest.raises(InputError, match=r"has no chat template.*use --raw"):
            model.chat(HELLO)
        assert model.complete("the cat", greedy()).stats.new_tokens <= 12


def test_settings_come_from_the_checkpoint_unless_flags_are_given(model: Model) -> None:
    assert model.defaults == GenerationSettings(1024, 0.6, 20, 1.0, None, frozenset({297}))
    changed = model.settings(temperature=0, top_k=None, seed=5)
    assert (changed.temperature, changed.top_k, changed.seed) == (0, 20, 5)


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
def test_bad_generation_config(tmp_path: Path, model: Model, raw: dict[str, object], message: str) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=f"generation_config.json: {message}"):
        GenerationSettings.load(tmp_path, model.decoder.config)


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
