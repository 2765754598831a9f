"""/tokenize and /detokenize of a real server, against the library's own tokens."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from q3edge.runtime.model import Model

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of <|im_end|>Japan?"}]


def test_a_prompt_and_its_tokens_are_the_librarys(client: httpx.Client, model: Model) -> None:
    prompt = "<|im_start|>user\nWhat is 2 + 2?"
    found = client.post("/tokenize", json={"prompt": prompt, "return_token_strs": True}).raise_for_status().json()
    ids = model.tokenizer.encode_markup(prompt)
    strings = found.pop("token_strs")
    assert found == {"tokens": ids, "count": len(ids), "max_model_len": model.decoder.config.max_position_embeddings}
    assert strings[0] == "<|im_start|>"
    assert "".join(strings).replace("Ġ", " ").replace("Ċ", "\n") == prompt
    text = client.post("/detokenize", json={"tokens": ids[1:]}).raise_for_status().json()
    assert text == {"prompt": "user\nWhat is 2 + 2?"}


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("thinking", [None, False])
def test_messages_become_the_prompt_of_a_chat(
    client: httpx.Client, model: Model, generation: bool, thinking: bool | None
) -> None:
    body = {
        "model": "demo", "messages": MESSAGES, "add_generation_prompt": generation,
        "chat_template_kwargs": {"enable_thinking": thinking},
    }  # fmt: skip
    found = client.post("/tokenize", json=body).raise_for_status().json()
    assert found["tokens"] == model.encode_chat(MESSAGES, thinking=thinking, add_generation_prompt=generation)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "tools": [{"type": "web"}]}, "tools[0].type"),
        ("/tokenize", {"messages": [{"role": "pirate", "content": "x"}]}, "messages[0]"),
        ("/tokenize", {"prompt": "a", "chat_template": "{{ messages }}"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens[0]"),
    ],
)
def test_what_is_wrong_is_named(client: httpx.Client, path: str, body: dict[str, Any], param: str | None) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
