"""Dialogues become the tokens that the runtime would feed the model, in both forms, and users cannot write markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from q3edge.calibration.data.dialogues import DocumentEncoder, with_working_as_thoughts
from q3edge.calibration.data.documents import Document
from q3edge.calibration.data.records import question_and_answer
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer
from tests.helpers.runtime import CHAT_TEMPLATE, MARKUP_TOKENS, SPECIAL_TOKENS, build_tokenizer
from tools.demo_model.chat_template import CHAT_TEMPLATE as QWEN3_RULES

ASKED = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(build_tokenizer(), "tokenizer", 320)


@pytest.fixture(scope="module", params=["test", "qwen3"])
def template(request: pytest.FixtureRequest) -> Iterator[ChatTemplate]:
    chat = ChatTemplate(QWEN3_RULES if request.param == "qwen3" else CHAT_TEMPLATE, request.param)
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def qwen3() -> Iterator[ChatTemplate]:
    chat = ChatTemplate(QWEN3_RULES, "qwen3")
    yield chat
    chat.close()


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of `ids`, control tokens included."""
    return str(tokenizer._full.decode(ids, skip_special_tokens=False))


def dialogue(question: str = "the cat", answer: str = "sat", **thoughts: str) -> Document:
    user, assistant = question_and_answer(question, answer)
    thoughtful: Any = {**assistant, **thoughts}
    return Document(0, 1, messages=(user, thoughtful))


def test_every_second_dialogue_has_thinking_switched_off(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    encoder = DocumentEncoder(tokenizer, template)
    found = [shown(tokenizer, encoder.encode(dialogue())) for _ in range(4)]
    default, off = ASKED + "sat<|im_end|>\n", ASKED + "<think>\n\n</think>\n\nsat<|im_end|>\n"
    assert found == [default, off, default, off]


def test_an_empty_thought_says_that_thinking_is_off(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    encoder = DocumentEncoder(tokenizer, template)
    off = ASKED + "<think>\n\n</think>\n\nsat<|im_end|>\n"
    assert [shown(tokenizer, encoder.encode(dialogue(reasoning_content=""))) for _ in range(2)] == [off, off]
    assert shown(tokenizer, encoder.encode(dialogue())) == ASKED + "sat<|im_end|>\n"


def test_the_prompt_is_the_runtimes(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    encoder = DocumentEncoder(tokenizer, template)
    earlier = [*dialogue("the dog", "on the mat").messages]
    document = Document(0, 1, messages=(*earlier, *dialogue().messages))
    for thinking in (None, False):
        prompt = ChatEncoder(tokenizer, template, "template").encode(document.messages[:-1], thinking=thinking)
        ids = encoder.encode(document)
        assert ids[: len(prompt)] == prompt
        assert shown(tokenizer, ids[len(prompt) :]) == "sat<|im_end|>\n"


def test_thoughts_are_shown_as_thoughts(tokenizer: Tokenizer, qwen3: ChatTemplate) -> None:
    encoder = DocumentEncoder(tokenizer, qwen3)
    for _ in range(2):
        ids = encoder.encode(dialogue(reasoning_content="on the log"))
        assert shown(tokenizer, ids) == ASKED + "<think>\non the log\n</think>\n\nsat<|im_end|>\n"
        assert tokenizer.added_ids["<think>"] in ids


def test_a_working_is_thought_in_one_form_and_said_in_the_other(tokenizer: Tokenizer, qwen3: ChatTemplate) -> None:
    encoder = DocumentEncoder(tokenizer, qwen3)
    document = dialogue(answer="2 + 2 = 4\n#### 4")
    assert shown(tokenizer, encoder.encode(document)) == ASKED + "<think>\n2 + 2 = 4\n</think>\n\n4<|im_end|>\n"
    said = ASKED + "<think>\n\n</think>\n\n2 + 2 = 4\n#### 4<|im_end|>\n"
    assert shown(tokenizer, encoder.encode(document)) == said


@pytest.mark.parametrize("answer", ["4", "#### 4", "\n#### 4", "2 + 2\n#### "])
def test_an_answer_without_a_working_stays_whole(answer: str) -> None:
    assert with_working_as_thoughts(question_and_answer("2 + 2", answer)) is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, *MARKUP_TOKENS, "<|im_", "end|>", "the ", "cat"]), max_size=6))
def test_markup_typed_by_a_user_stays_text(tokenizer: Tokenizer, template: ChatTemplate, pieces: list[str]) -> None:
    typed = "x" + "".join(pieces)
    encoder, plain = DocumentEncoder(tokenizer, template), DocumentEncoder(tokenizer, template)
    for _ in range(2):
        found, expected = encoder.encode(dialogue(typed)), plain.encode(dialogue("x"))
        added = set(tokenizer.added_ids.values())
        assert [i for i in found if i in added] == [i for i in expected if i in added]
        assert typed in shown(tokenizer, found)


def test_markup_in_plain_text_stays_text(tokenizer: Tokenizer) -> None:
    ids = DocumentEncoder(tokenizer, None).encode(Document(0, 1, "the <|im_end|> <think>"))
    assert not set(ids) & set(tokenizer.added_ids.values())


def test_without_a_template_a_dialogue_is_its_text(tokenizer: Tokenizer) -> None:
    encoder = DocumentEncoder(tokenizer, None)
    ids = encoder.encode(dialogue(reasoning_content="on the log"))
    assert tokenizer.decode(ids) == "the cat\n\non the log\n\nsat"
    assert encoder.plain == 1


def test_a_dialogue_that_waits_for_an_answer_is_taken_as_it_is(tokenizer: Tokenizer, qwen3: ChatTemplate) -> None:
    ids = DocumentEncoder(tokenizer, qwen3).encode(Document(0, 1, messages=({"role": "user", "content": "the cat"},)))
    assert shown(tokenizer, ids) == "<|im_start|>user\nthe cat<|im_end|>\n"


def test_a_refused_dialogue_is_counted(tokenizer: Tokenizer) -> None:
    chat = ChatTemplate("{{ raise_exception('no') }}", "template")
    encoder = DocumentEncoder(tokenizer, chat)
    assert encoder.encode(dialogue()) == []
    assert encoder.refused == [dialogue()]
    chat.close()


def test_a_template_with_its_own_system_message_is_rendered_whole(tokenizer: Tokenizer) -> None:
    chat = ChatTemplate("the log" + CHAT_TEMPLATE, "template")
    encoder = DocumentEncoder(tokenizer, chat)
    for _ in range(2):
        assert shown(tokenizer, encoder.encode(dialogue())) == "the log" + ASKED + "sat<|im_end|>\n"
    chat.close()


def test_documents_end_with_the_end_of_text_token(tokenizer: Tokenizer) -> None:
    assert DocumentEncoder(tokenizer, None).separator == [tokenizer.added_ids["<|endoftext|>"]]
    other = build_tokenizer()
    bare = type(other)(other.model)
    bare.pre_tokenizer, bare.decoder = other.pre_tokenizer, other.decoder
    assert DocumentEncoder(Tokenizer(bare, "bare", 320), None).separator == bare.encode("\n\n").ids


@pytest.mark.parametrize("name", ["README.md"])
def test_prose_is_encoded_as_the_tokenizer_does(tokenizer: Tokenizer, name: str) -> None:
    text = (Path(__file__).resolve().parents[3] / name).read_text(encoding="utf-8")
    assert DocumentEncoder(tokenizer, None).encode(Document(0, 1, text)) == build_tokenizer().encode(text).ids
