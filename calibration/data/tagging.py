"""Tags of documents: one of the areas whose shares the mixture keeps, and the language."""

from __future__ import annotations

import re
from dataclasses import replace

from q3edge.calibration.data.documents import Document
from q3edge.gsm8k import RESULT_MARK
from q3edge.languages import UNKNOWN, detect_language
from q3edge.runtime.text.messages import content_text

CODE_LANGUAGE = "code"  # counted in place of a human language
# Two repetitions that take the same characters never stand side by side: a run of blanks would cost its square.
_CODE_LINE = re.compile(
    r"""\s*(def|class|if|for|while|elif|else|try|except|with|async|switch|fn|func|function)\b.*[:{]$  # opens a block
    | \s*(import|return|\#include|package)\s\S+$ | from\s\S+\simport\s | \s*return\s.*[^.!?]$
    | .*[;{}]$ | \s*[)\]}]+,?$
    | [\w.]+(\[.*\])?\s*[-+*/|]?=\s*\S | [\w.]+\(.*\)$  # assigns, calls
    | \s+\S.*(=|\w\(|\w\[)""",
    re.VERBOSE,
)
_CODE_LINES = 0.4  # share of the lines that are not blank
_MIN_CODE_LINES = 3
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_FENCED_SHARE = 0.3
_EQUATION = re.compile(r"\d\s*(?:[%°]\s*)?[-+*/×÷=^<>]\s*(?:[$€£(]\s*)?[\d(]|[a-z]\s*=\s*[-(]?\d|\d\s*[a-z]\s*[-+=]")
_LATEX = re.compile(
    r"\\(frac|sqrt|sum|int|cdot|times|begin|left|boxed|pi|alpha|leq|geq)\b|\$[^$\n=^_\\]*[=^_\\][^$\n]*\$"
)
_AMOUNT = re.compile(r"\d|\bhow (many|much|old|long|far)\b", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"\W*\d(?:[\d.,\s]*\d)?\W*")
_PER_CHARACTERS = 500  # prose is maths where it has an equation for every so many characters


def tag_document(document: Document) -> Document:
    """Fill in `area`, `language` and `is_code` of a document; what the file says has precedence."""
    text = document.plain_text
    is_code = document.is_code or document.area == "code" or (document.area is None and is_source_code(text))
    language = document.language or (CODE_LANGUAGE if is_code else detect_language(text))
    area = document.area or _area(document, text, is_code, language)
    return replace(document, area=area, language=language, is_code=is_code)


def is_source_code(text: str) -> bool:
    """Tell whether most of a text is program code, bare or fenced."""
    if sum(map(len, _FENCED.findall(text))) > _FENCED_SHARE * len(text):
        return True
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) >= _MIN_CODE_LINES and sum(map(bool, map(_CODE_LINE.match, lines))) > _CODE_LINES * len(lines)


def _area(document: Document, text: str, is_code: bool, language: str) -> str:
    if is_code:
        return "code"
    if language.partition("-")[0] not in ("en", UNKNOWN):
        return "multilingual"
    return "math" if (_is_exercise(document) if document.messages else _is_maths(text)) else "knowledge"


def _is_exercise(document: Document) -> bool:
    """Tell whether a dialogue is a question about amounts whose answer calculates or is a number."""
    question = " ".join(content_text(m) for m in document.messages if m["role"] != "assistant")
    answer = "\n".join(content_text(m) for m in document.messages if m["role"] == "assistant")
    if _is_maths(question + "\n" + answer) or RESULT_MARK in answer:
        return True
    return bool(_AMOUNT.search(question)) and bool(_BARE_NUMBER.fullmatch(answer) or _EQUATION.search(answer))


def _is_maths(text: str) -> bool:
    count = len(_EQUATION.findall(text)) + len(_LATEX.findall(text))
    return count >= 2 and count * _PER_CHARACTERS > len(text)
