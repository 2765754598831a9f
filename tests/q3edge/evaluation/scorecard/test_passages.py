"""Passages: which tokens are the answer's, with the model's own template and without one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.errors import InputError
from q3edge.evaluation.scorecard.passages import Encoded, Passage, PassageEncoder, passages_digest
from q3edge.evaluation.suites.suite import Item, Suite
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer

DEMO = Path(str(files("q3edge.data") / "demo_model"))
QUESTION = Item("q", "answer", "math", "en", "What is 3 + 4?", "3 + 4 = 7\n#### 7", "7")
CHOICE = Item("c", "choice", "knowledge", "en", "Which?\nA. x\nB. y\nC. z", "B", "B", choices=("x", "y", "z"))
CODE = Item("p", "code", "code", "en", "def add(a, b):\n", "    return a + b\n")
TEXT = Item("t", "text", "knowledge", "en", "The harbour was quiet in the morning. " * 120)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO, 1 << 20)


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    found = ChatTemplate.load(DEMO)
    assert found is not None
    yield found
    found.close()


def encode(
    tokenizer: Tokenizer, template: ChatTemplate | None, *items: Item, context: int = 512, limit: int | None = None
) -> Encoded:
    encoder = PassageEncoder(ChatEncoder(tokenizer, template, "test"), context)
    return encoder.encode([Suite("s", items, "00", "test")], limit)


def answer_of(tokenizer: Tokenizer, passage: Passage) -> str:
    """The tokens that the scored inputs predict."""
    return tokenizer.decode(passage.window.targets[passage.first : passage.stop].tolist())


@pytest.mark.parametrize("thinking", [None, True, False])
def test_answer_in_a_conversation(tokenizer: Tokenizer, template: ChatTemplate, thinking: bool | None) -> None:
    item = Item("q", "answer", "math", "en", "What is 3 + 4?", "3 + 4 = 7\n#### 7", "7", thinking=thinking)
    (passage,) = encode(tokenizer, template, item).passages
    assert answer_of(tokenizer, passage) == item.answer
    assert passage.stop < len(passage.window.inputs)  # the end of the turn is read, but is not the answer


def test_answer_without_template(tokenizer: Tokenizer) -> None:
    question, program = encode(tokenizer, None, QUESTION, CODE).passages
    assert answer_of(tokenizer, question) == " " + QUESTION.answer
    assert (
        tokenizer.decode(question.window.token_ids.tolist())
        == f"Question: {QUESTION.prompt}\nAnswer: {QUESTION.answer}"
    )
    assert answer_of(tokenizer, program) in CODE.answer
    assert tokenizer.decode(program.window.token_ids.tolist()) == CODE.prompt + CODE.answer


def test_letters_of_a_choice(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    (passage,) = encode(tokenizer, template, CHOICE).passages
    assert [tokenizer.decode([letter]) for letter in passage.letters] == ["A", "B", "C"]
    assert passage.window.targets[passage.first] == passage.letters[1]
    assert answer_of(tokenizer, passage) == "B"


def test_text_is_cut_and_limited(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    passages = encode(tokenizer, template, TEXT).passages
    assert len(passages) > 2
    assert [passage.item.id for passage in passages[:2]] == ["t/1", "t/2"]
    assert all((passage.first, passage.stop) == (0, len(passage.window.inputs)) for passage in passages)
    limited = encode(tokenizer, template, TEXT, QUESTION, limit=2).passages
    assert [passage.item.kind for passage in limited] == ["answer", "text", "text"]


def test_what_is_left_out_is_counted(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    long = Item("l", "answer", "math", "en", "x y " * 400, "7", "7")
    short = Item("s", "text", "math", "en", "Too short.")
    found = encode(tokenizer, template, QUESTION, long, short)
    assert [passage.item.id for passage in found.passages] == ["q"]
    assert {notice.code: notice.count for notice in found.notices} == {"items-too-long": 1, "texts-too-short": 1}
    with pytest.raises(InputError, match="no item is left to evaluate: questions longer than"):
        encode(tokenizer, template, long)
    with pytest.raises(InputError, match="no item is left to evaluate: the suites and areas chosen hold none"):
        encode(tokenizer, template)


def test_digest_tells_passages_apart(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    digests = {
        passages_digest(encode(tokenizer, found, *items).passages)
        for found in (template, None)
        for items in ((QUESTION,), (CHOICE,), (QUESTION, CHOICE))
    }
    assert len(digests) == 6
