"""Log probabilities of a real server, in both forms of OpenAI's API, against the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import q3edge
from q3edge.runtime.model import Model
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.server.logprobs import TokenTexts

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
JAPAN: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
TEXT = "The capital of Japan is"


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Model]:
    with q3edge.load(artifact, threads=1) as model:
        yield model


def answer(client: httpx.Client, path: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.post(path, json={"temperature": 0, **fields}).raise_for_status().json()
    return found


def test_chat_tells_each_token_and_its_alternatives(client: httpx.Client, model: Model) -> None:
    expected = model.chat(JAPAN, temperature=0, logprobs=3)
    fields = {"messages": JAPAN, "logprobs": True, "top_logprobs": 3}
    (choice,) = answer(client, CHAT, **fields)["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == len(expected.token_ids)
    whole = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert whole.decode() == f"<think>\n{expected.thinking}\n</think>\n\n{expected.answer}"
    for entry, told in zip(entries, expected.logprobs, strict=True):
        assert told is not None
        assert entry["logprob"] == pytest.approx(told.logprob, abs=1e-4)
        assert [each["logprob"] for each in entry["top_logprobs"]] == pytest.approx([p for _, p in told.top], abs=1e-4)
    streamed: list[Any] = []
    with client.stream("POST", CHAT, json={"temperature": 0, "stream": True, **fields}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                (found,) = json.loads(line.removeprefix("data: "))["choices"]
                streamed += (found["logprobs"] or {"content": []})["content"]
    assert [each["bytes"] for each in streamed] == [each["bytes"] for each in entries]
    bare = answer(client, CHAT, messages=JAPAN, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert {len(each["top_logprobs"]) for each in bare} == {0}


def test_plain_completions_tell_lists(client: httpx.Client) -> None:
    (choice,) = answer(client, PLAIN, prompt=TEXT, max_tokens=4, logprobs=2)["choices"]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == [sum(map(len, found["tokens"][:place])) for place in range(4)]
    for name, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[name] == logprob == max(top.values())
        assert len(top) == 2


@pytest.mark.parametrize("new", [0, 1, 3])
def test_an_echo_has_the_log_probabilities_of_the_prompt(client: httpx.Client, model: Model, new: int) -> None:
    prompts = [TEXT, "1 + 1 = 2", "x"]
    ids = [list(model.tokenizer.encode_markup(prompt)) for prompt in prompts]
    for given in (prompts, ids):
        whole = answer(client, PLAIN, prompt=given, echo=True, max_tokens=new, logprobs=1)
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        assert whole["usage"]["prompt_tokens"] == sum(map(len, ids))
        assert whole["usage"]["completion_tokens"] <= 3 * new
        for choice, prompt, tokens in zip(whole["choices"], prompts, ids, strict=True):
            assert choice["text"].startswith(prompt)
            found, score = choice["logprobs"], model.score(tokens, top=1)
            assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
            expected = [entry.logprob for entry in score.logprobs[1:] if entry is not None]
            assert found["token_logprobs"][1 : len(tokens)] == pytest.approx(expected, abs=1e-4)
            assert "".join(found["tokens"][: len(tokens)]) == prompt
            if new < 3:  # an end token counts where one token is asked for
                assert len(found["tokens"]) == len(found["token_logprobs"]) == len(tokens) + new


def test_an_echo_without_log_probabilities(client: httpx.Client) -> None:
    (choice,) = answer(client, PLAIN, prompt=TEXT, echo=True, max_tokens=2)["choices"]
    (alone,) = answer(client, PLAIN, prompt=TEXT, max_tokens=2)["choices"]
    assert (choice["text"], choice["logprobs"]) == (TEXT + alone["text"], None)
    (nothing,) = answer(client, PLAIN, prompt=TEXT, echo=True, max_tokens=0)["choices"]
    assert nothing == {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length"}


def test_a_bias_bans_a_token_or_lets_no_other_come(client: httpx.Client, model: Model) -> None:
    (usual,) = model.generate(TEXT, temperature=0, max_new_tokens=1).token_ids
    banned = answer(client, PLAIN, prompt=TEXT, max_tokens=1, logit_bias={str(usual): -100}, logprobs=1)["choices"][0]
    assert banned["text"] != model.tokenizer.decode([usual])
    (other,) = model.tokenizer.encode_text("x")
    forced = answer(client, CHAT, messages=JAPAN, max_tokens=3, logit_bias={str(other): 100})["choices"][0]["message"]
    assert forced["content"] == "xxx"


def test_tokens_that_are_no_whole_characters_have_names_of_their_own(model: Model) -> None:
    texts = TokenTexts(model.tokenizer)
    assert isinstance(model.tokenizer, Tokenizer)
    ids = model.tokenizer.encode_text("\U0001f995")
    assert len(ids) > 1
    names = texts.plain(ids, [None] * len(ids))["tokens"]
    assert names[0].startswith("bytes:\\xf0")
    assert len(set(names)) == len(ids)
