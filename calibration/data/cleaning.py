"""Normalized text: one Unicode form, no invisible characters, no data set's markup; long texts in passages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from q3edge.calibration.data.documents import Document
from q3edge.gsm8k import without_calculator_notes
from q3edge.runtime.text.messages import texts, with_texts

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Controls, soft hyphen, zero width space, direction marks, byte order mark. Joiners (U+200C, U+200D) are spelling in
# Persian and Hindi and stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, from an escape in JSON; no tokenizer takes it
_BLANKS_AT_LINE_END = re.compile(r"[ \t]+(?=\n|$)")
_WIKITEXT = re.compile(" @([-,.])@ ")
_SPACED = (  # how WikiText sets words and marks apart
    (re.compile(r" ([,.;:!?)\]%]|'(?:s|ve|re|ll|d|m)\b|n't\b)"), r"\1"),
    (re.compile(r"([(\[]) "), r"\1"),
    (re.compile(r'" ([^"\n]*?) "'), r'"\1"'),
    (re.compile("^ | $", re.MULTILINE), ""),
    (re.compile("= (?==)"), "="),
)
_SEPARATORS = ("\n\n", "\n", ". ", " ")


def clean_document(document: Document) -> tuple[Document, bool]:
    """Clean all text of a document; also returns whether something invisible or broken was taken out."""
    damaged = any(map(_is_damaged, _texts(document)))
    if document.messages:
        messages = tuple(
            with_texts(message, lambda _name, text: clean_text(text, keep_layout=True)) for message in document.messages
        )
        return replace(document, messages=messages), damaged
    return replace(document, text=clean_text(document.text, keep_layout=document.is_code)), damaged


def clean_text(text: str, *, keep_layout: bool = False) -> str:
    """Clean a text; `keep_layout` (code, messages) keeps two blank lines in a row and the first line's indentation."""
    text = _LINE_ENDS.sub("\n", text)
    text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))
    text = without_calculator_notes(unicodedata.normalize("NFC", text))
    if _WIKITEXT.search(text):
        text = _join_wikitext(text)
    text = _BLANKS_AT_LINE_END.sub("", text)
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
    text = document.text
    while len(text) > size:
        cut = _cut(text[:size])
        yield replace(document, text=text[:cut].strip())
        text = text[cut:].lstrip()
    yield replace(document, text=text)


def _cut(window: str) -> int:
    """Position of a cut: after the last of the best separators that occurs in the second half."""
    for separator in _SEPARATORS:
        position = window.rfind(separator, len(window) // 2)
        if position >= 0:
            return position + len(separator)
    return len(window)


def _join_wikitext(text: str) -> str:
    text = _WIKITEXT.sub(r"\1", text)
    for pattern, replacement in _SPACED:
        text = pattern.sub(replacement, text)
    return text


def _is_damaged(text: str) -> bool:
    return bool(_INVISIBLE.search(text) or _SURROGATE.search(text))


def _texts(document: Document) -> list[str]:
    return [document.text, *texts(document.messages)]
