"""`ControlTokens`: which added tokens steer the model, and how text written by people is kept from spelling them.

Special tokens do, and so does markup that a template writes (`<think>`, `<tool_call>`). Any other added token is a word
of the vocabulary, for instance one that a fine-tune added, and means the same whoever writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import tokenizers

_PRIVATE_USE = range(0xE000, 0xF900)
_MARKUP = re.compile(
    r"<\|.*\|>|</?(?:think|tool_call|tool_response)>", re.DOTALL
)  # what Qwen3 adds that is not special
_BRACKETED = re.compile(r"\W.*\W", re.DOTALL)


class ControlTokens:
    """The control tokens of one tokenizer."""

    def __init__(self, added: Mapping[int, tokenizers.AddedToken], template: str = "") -> None:
        """Choose from the `added` tokens; `template`: the chat template, whose own `[INST]` or `<s>` steer too."""
        self._tokens = {token.content: (index, token) for index, token in added.items() if _steers(token, template)}
        self._all = _any_of(self._tokens)
        self._special = _any_of(name for name, (_, token) in self._tokens.items() if token.special)

    def __contains__(self, text: object) -> bool:
        return text in self._tokens

    @property
    def ids(self) -> frozenset[int]:
        """Ids of the control tokens."""
        return frozenset(index for index, _ in self._tokens.values())

    def split(self, text: str, mark: str) -> Iterator[tuple[str, int | None]]:
        """Split rendered markup at its control tokens: yields the text before each, without marks, and its id.

        The last is the text after all of them, and None. A token that `mark` breaks is text. As in the tokenizers
        library, one with lstrip or rstrip takes the whitespace beside it, and one with single_word is none in a word.
        """
        position = 0
        for match in self._all.finditer(text):
            start, end = match.span()
            index, token = self._tokens[match[0]]
            broken = len(match[0]) == 1 and text[start - 1 : start] == mark
            if start < position or broken or (token.single_word and _in_word(text, start, end)):
                continue
            if token.lstrip:
                start = position + len(text[position:start].rstrip())
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip())
            yield text[position:start].replace(mark, ""), index
            position = end
        yield text[position:].replace(mark, ""), None

    def mark(self, text: str, mark: str, *, special_only: bool = False) -> str:
        """Break every control (or only every special) token that `text` spells with `mark`.

        The mark stands after a token's first character, so that no template takes it for its own markup, or before a
        token of one character. A token cut off by either end of `text`, which the template's own text could complete,
        is broken too.
        """
        pattern = self._special if special_only else self._all
        tokens = [name for name in self._tokens if pattern.fullmatch(name)]
        found = re.finditer(f"(?=({pattern.pattern}))", text)
        breaks = {match.start() + (len(match[1]) > 1) for match in found}
        if any(text.startswith(token[cut:]) for token in tokens for cut in range(1, len(token))):
            breaks.add(0)
        longest = max(map(len, tokens), default=0)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(token.startswith(text[start:]) for token in tokens):
                breaks.add(start + 1)
        ordered = sorted(breaks)
        return mark.join(text[start:end] for start, end in zip([0, *ordered], [*ordered, len(text)]))


def unused_character(texts: Iterable[str]) -> str:
    """Private-use character that occurs in none of `texts`, so the mark cannot be forged."""
    used = set().union(*texts)
    return next(character for code in _PRIVATE_USE if (character := chr(code)) not in used)


def _steers(token: tokenizers.AddedToken, template: str) -> bool:
    markup = _MARKUP.fullmatch(token.content) or (_BRACKETED.fullmatch(token.content) and token.content in template)
    return bool(token.special or markup)


def _in_word(text: str, start: int, end: int) -> bool:
    return bool(re.match(r"\w", text[end : end + 1]) or re.match(r"\w", text[max(start - 1, 0) : start]))


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Pattern that matches any of `tokens`, the longest first, as the tokenizers library does."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(?:" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "(?!)")
