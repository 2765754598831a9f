"""Normalized text: one Unicode form, no invisible characters, no data set's markup; long texts in passages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from q3edge.calibration.data.documents import Document
from q3edge.gsm8k import without_calculator_notes
from q3edge.runtime.text.messages import changed_texts, texts, with_texts

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Controls, soft hyphen, zero width space, direction marks, byte order mark. Joiners (U+200C, U+200D) are spelling in
# Persian and Hindi and stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, from an escape in JSON; no tokenizer takes it
_NOT_BLANK = re.compile(r"\S")
_WIKITEXT = re.compile(" @([-,.])@ ")
_SPACED = (  # how WikiText sets words and marks apart
    (re.compile(r" ([,.;:!?)\]%]|'(?:s|ve|re|ll|d|m)\b|n't\b)"), r"\1"),
    (re.compile(r"([(\[]) "), r"\1"),
    (re.compile(r'" ([^"\n]*?) "'), r'"\1"'),
    (re.compile("^ | $", re.MULTILINE), ""),
    (re.compile("= (?==)"), "="),
)
_SEPARATORS = tuple(
    map(re.compile, ("\n\n", "\n", "\\. |[\u3002\uff01\uff1f]|[\u0964\u06d4\u061f\u17d4\u104b\u1362] ?", " "))
)


def clean_document(document: Document) -> tuple[Document, bool]:
    """Clean all text of a document; also returns whether something invisible or broken was taken out."""
    damaged = any(map(_is_damaged, _texts(document)))
    if document.messages:
        messages = tuple(
            with_texts(message, lambda _name, text: clean_text(text, keep_layout=True)) for message in document.messages
        )
        tools = changed_texts(document.tools, partial(clean_text, keep_layout=True))
        return replace(document, messages=messages, tools=tuple(tools)), damaged
    return replace(document, text=clean_text(document.text, keep_layout=document.is_code)), damaged


def clean_text(text: str, *, keep_layout: bool = False) -> str:
    """Clean a text; `keep_layout` (code, messages) keeps two blank lines in a row and the first line's indentation."""
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))
    text = without_calculator_notes(unicodedata.normalize("NFC", text))
    if _WIKITEXT.search(text):
        text = _join_wikitext(text)
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))  # a pattern is quadratic in blanks inside a line
    if keep_layout:
        return re.sub("\n{4,}", "\n\n\n", text).strip("\n")
    return re.sub("\n{3,}", "\n\n", text).strip()


def passages(document: Document, size: int) -> Iterator[Document]:
    """Passages of a prose document, cut at blank lines, else line ends, sentences or words; other documents whole.

    A document of at most `size` characters is one passage.
    """
    if document.messages or document.is_code:
        yield document
        return
    text, start = document.text, 0
    if len(text) > size:
        start = _past_blanks(text, 0)
    while len(text) - start > size:  # by position: copying the rest at each cut is quadratic
        cut = _cut(text, start, start + size)
        yield replace(document, text=text[start:cut].strip())
        start = _past_blanks(text, cut)
    yield replace(document, text=text[start:])


def _cut(text: str, start: int, stop: int) -> int:
    """Position of a cut: after the last of the best separators in the second half of start..stop, else at stop."""
    for separator in _SEPARATORS:
        ends = [found.end() for found in separator.finditer(text, start + (stop - start) // 2, stop)]
        if ends:
            return ends[-1]
    while stop > start + 1 and unicodedata.category(text[stop])[0] == "M":  # a letter keeps its marks
        stop -= 1
    return stop


def _past_blanks(text: str, start: int) -> int:
    found = _NOT_BLANK.search(text, start)
    return found.start() if found else len(text)


def _join_wikitext(text: str) -> str:
    text = _WIKITEXT.sub(r"\1", text)
    for pattern, replacement in _SPACED:
        text = pattern.sub(replacement, text)
    return text


def _is_damaged(text: str) -> bool:
    return bool(_INVISIBLE.search(text) or _SURROGATE.search(text))


def _texts(document: Document) -> list[str]:
    return [document.text, *texts(document.messages), *texts(document.tools)]
