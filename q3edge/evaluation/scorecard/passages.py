"""`Passage`: an item as the one window of tokens that both models read, and which of its tokens are the answer.

A question is a conversation in the model's own template, with the right answer as the assistant's turn; without a
template it is "Question: ...\\nAnswer: ...", and a program is its prompt and solution. A text is cut into windows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from q3edge import progress
from q3edge.artifact import Notice
from q3edge.errors import InputError
from q3edge.evaluation.distance.windows import MIN_SCORED, WINDOW_LENGTH, Text, Window, cut_windows
from q3edge.evaluation.suites.selection import evenly_chosen
from q3edge.evaluation.suites.suite import LETTERS, Item, Suite
from q3edge.runtime.text.chat_encoding import ChatEncoder
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.messages import Message
from q3edge.runtime.text.tokenizer import Tokenizer

_TOO_LONG = "items-too-long"
_TOO_SHORT = "texts-too-short"
_NO_ANSWER = "answers-without-tokens"
_DETAILS = {
    _TOO_LONG: "questions longer than the model's context were left out",
    _TOO_SHORT: f"texts of at most {MIN_SCORED} tokens were left out",
    _NO_ANSWER: "questions whose answer the template does not show, or spells alike for all letters, were left out",
}


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """One item, or one window of a text, whose `item.id` then ends with the window's number.

    The answer's tokens are predicted at the inputs first .. stop - 1 of `window`; a text's at all of them.
    letters: of a multiple choice, the token ids of A, B, C ... after input `first`; else empty.
    """

    suite: str
    item: Item
    window: Window
    first: int
    stop: int
    letters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """All passages, in the suites' order, and notices of what was left out."""

    passages: tuple[Passage, ...]
    notices: tuple[Notice, ...]


class _LeftOut(Exception):  # noqa: N818 - no error: it is counted and shown
    """Raised where an item gives no passage; the message is a notice's code."""


class PassageEncoder:
    """Encoder of items into passages for one model. `context`: its longest input, in tokens.

    encoder: its tokenizer and template, if any.
    """

    def __init__(self, encoder: ChatEncoder, context: int) -> None:
        self._encoder, self._context = encoder, context
        self._tail = self._after_answer()

    def encode(self, suites: Sequence[Suite], limit: int | None) -> Encoded:
        """Encode all suites, at most `limit` windows of each one's texts (None: all). InputError: nothing is left."""
        passages: list[Passage] = []
        left_out: Counter[str] = Counter()
        with progress.task("tokens", sum(len(suite.items) for suite in suites)) as advance:
            for suite in suites:
                found: list[Passage] = []
                for item in suite.items:
                    try:
                        found += self._texts(suite, item) if item.kind == "text" else [self._question(suite, item)]
                    except _LeftOut as reason:
                        left_out[str(reason)] += 1
                    advance(1)
                texts = evenly_chosen([passage for passage in found if passage.item.kind == "text"], limit)
                passages += [passage for passage in found if passage.item.kind != "text"] + texts
        notices = tuple(Notice(code, count, _DETAILS[code]) for code, count in left_out.items())
        if not passages:
            reasons = "; ".join(notice.detail for notice in notices) or "the suites and areas chosen hold none"
            raise InputError(f"no item is left to evaluate: {reasons}")
        return Encoded(tuple(passages), notices)

    def _texts(self, suite: Suite, item: Item) -> list[Passage]:
        ids = self._encoder.tokenizer.encode_text(item.prompt)
        if len(ids) <= MIN_SCORED:
            raise _LeftOut(_TOO_SHORT)
        windows = cut_windows(
            [Text(item.id, item.prompt)], lambda _text: ids,
            context=self._context, length=min(WINDOW_LENGTH, self._context), max_tokens=len(ids),
        )  # fmt: skip
        return [
            Passage(suite.name, replace(item, id=f"{item.id}/{number}"), window, 0, len(window.inputs))
            for number, window in enumerate(windows, 1)
        ]

    def _question(self, suite: Suite, item: Item) -> Passage:
        """Encode a question; the answer begins where the window stops being the prompt, which `_prompts` gives."""
        ids = self._with_answer(item, item.answer)
        if len(ids) - 1 > self._context:
            raise _LeftOut(_TOO_LONG)
        letters: tuple[int, ...] = ()
        if item.choices:
            options = [self._with_answer(item, letter) for letter in LETTERS[: len(item.choices)]]
            first = _common(*options)
            letters = tuple(option[first] for option in options if len(option) > first)
            if len(set(letters)) < len(options):
                raise _LeftOut(_NO_ANSWER)
        else:
            first = max(_common(ids, prompt) for prompt in self._prompts(item))
        stop = len(ids) - self._tail
        if not 0 < first < stop:
            raise _LeftOut(_NO_ANSWER)
        window = Window(item.area, np.asarray(ids, np.int64))
        return Passage(suite.name, item, window, first - 1, stop - 1, letters)

    def _with_answer(self, item: Item, answer: str) -> list[int]:
        if self._encoder.template is not None:
            return self._conversation(item.prompt, answer, item.thinking)
        encode = self._encoder.tokenizer.encode_text
        if item.kind == "code":
            return encode(item.prompt + answer)
        return encode(f"Question: {item.prompt}\nAnswer: {answer}")

    def _prompts(self, item: Item) -> list[list[int]]:
        """Prompts that may precede an answer. A template may put an empty thinking block there, which a prompt has only
        where the model is told not to think; so both prompts are given, and the one that reaches further counts.
        """
        if self._encoder.template is not None:
            asked: list[Message] = [{"role": "user", "content": item.prompt}]
            return [self._encoder.encode(asked, thinking=thinking) for thinking in {item.thinking, False}]
        encode = self._encoder.tokenizer.encode_text
        return [encode(item.prompt if item.kind == "code" else f"Question: {item.prompt}\nAnswer:")]

    def _after_answer(self) -> int:
        """Number of tokens that end a conversation after the answer's own; they are read, but are not the answer."""
        if self._encoder.template is None:
            return 0
        one, other = (self._conversation("?", answer, False)[::-1] for answer in ("a", "b"))
        return _common(one, other)

    def _conversation(self, question: str, answer: str, thinking: bool | None) -> list[int]:
        messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self._encoder.encode(messages, thinking=thinking, add_generation_prompt=False)


def encode_suites(
    folder: Path, tokenizer: Tokenizer, context: int, suites: Sequence[Suite], limit: int | None
) -> Encoded:
    """Encode suites into passages with the chat template in `folder`, if it has one. InputError: nothing is left."""
    template = ChatTemplate.load(folder)
    try:
        return PassageEncoder(ChatEncoder(tokenizer, template, str(folder)), context).encode(suites, limit)
    finally:
        if template is not None:
            template.close()


def passages_digest(passages: Sequence[Passage]) -> str:
    """Digest of passages: hex sha256 over every window's tokens and what of it is scored."""
    digest = hashlib.sha256()
    for passage in passages:
        numbers = [passage.first, passage.stop, *passage.letters]
        digest.update(f"{passage.suite}:{passage.item.id}:{numbers}:{len(passage.window.token_ids)}:".encode())
        digest.update(passage.window.token_ids.tobytes())
    return digest.hexdigest()


def _common(*sequences: Sequence[int]) -> int:
    """Length of the prefix that all sequences share."""
    alike = (len(set(column)) == 1 for column in zip(*sequences))
    return sum(1 for _ in takewhile(bool, alike))
