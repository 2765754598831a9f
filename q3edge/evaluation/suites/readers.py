"""Data files -> `Item`s: one reader per format, with its errors. `suite_files` reads headers and makes suites.

Every reader takes a path and the file's text, keeps the file's order, and gives the items the area and language that
such data usually has. InputError: names the file and the line that differs from the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from q3edge.errors import InputError
from q3edge.evaluation.suites.question_files import question_of
from q3edge.evaluation.suites.suite import LETTERS, AnswerFormat, Item
from q3edge.gsm8k import without_calculator_notes
from q3edge.languages import detect_language
from q3edge.storage.text_files import delimiter_of, json_lines, numbered_lines, refusal, table_rows

Reader = Callable[[Path, str], list[Item]]
_MGSM_NAME = re.compile(r"mgsm_([a-z]{2,3})$")
_LANGUAGE_SAMPLE = 20_000  # characters, from the file's beginning
_CODE = {"task_id", "prompt", "canonical_solution", "test", "entry_point"}
_QUESTION = {"id", "area", "language", "thinking", "question", "answer"}
_CHOOSE = {"zh": "请直接回答正确选项的字母。", "en": "Answer with the letter of the right choice."}


def gsm8k(path: Path, text: str) -> list[Item]:
    """Read JSON Lines with question and answer, a worked solution whose last line is #### and the number.

    The solution's notes for a calculator are left out (github.com/openai/grade-school-math).
    """
    items = []
    for line, raw in _json_lines(path, text):
        question, answer = _texts(path, line, raw, "question", "answer")
        solution, mark, final = without_calculator_notes(answer).rpartition("####")
        if not mark or not final.strip():
            raise InputError(f"{path}, line {line}: answer: expected a last line '#### NUMBER'")
        whole = f"{solution.strip()}\n#### {final.strip()}"
        items.append(_answer(path, line, "math", "en", question, whole, final.strip(), "number"))
    return items


def mgsm(path: Path, text: str) -> list[Item]:
    """Read lines of question, tab, number; the language is that of the name mgsm_XX, else the detected one.

    English counts as math, all others as multilingual (github.com/google-research/url-nlp).
    """
    named = _MGSM_NAME.search(path.stem)
    language = named[1] if named else _language(text)
    area = "math" if language == "en" else "multilingual"
    items = []
    for line, content in numbered_lines(text):
        question, tab, final = content.partition("\t")
        if not tab or "\t" in final or not question.strip() or not final.strip():
            raise InputError(f"{path}, line {line}: expected a question, one tab and its answer")
        items.append(_answer(path, line, area, language, question.strip(), final.strip(), final.strip(), "number"))
    return items


def humaneval(path: Path, text: str) -> list[Item]:
    """Read JSON Lines with task_id, prompt, canonical_solution, test and entry_point (github.com/openai/human-eval)."""
    items = []
    for line, raw in _json_lines(path, text):
        name, prompt, solution, test, entry = _texts(
            path, line, raw, "task_id", "prompt", "canonical_solution", "test", "entry_point"
        )
        items.append(Item(name, "code", "code", "en", prompt, solution, test=test, entry_point=entry))
    return items


def choice(path: Path, text: str) -> list[Item]:
    """Read CSV: question, choices A, B, C ..., letter of the right one; as in MMLU and CMMLU, an index may precede.

    A header may be cut by semicolons, tabs or bars too, then the rows are; without one there are four choices.
    """
    language, count, first, items = _language(text), 4, None, []
    delimiter = delimiter_of(text, lambda row: _header(row) is not None)
    for _, line, row in table_rows(text, refusal(path, "not CSV"), delimiter):
        if first is None and (found := _header(row)):
            first, count = found
            continue
        if first is None:
            first = len(row) - count - 2
        if len(row) != first + count + 2 or first not in (0, 1):
            raise InputError(f"{path}, line {line}: {len(row)} cells; expected question, {count} choices, answer")
        items.append(_choice_item(path, line, language, [cell.strip() for cell in row[first:]]))
    return items


def questions(path: Path, text: str) -> list[Item]:
    """Read q3edge's own questions, JSON Lines with the fields of `question_files.Question`."""
    items = []
    for line, raw in json_lines(text, refusal(path, "not JSON")):
        found = question_of(raw, f"{path}, line {line}")
        items.append(
            Item(
                found.id, "answer", found.area, found.language, found.question, found.answer, found.answer,
                thinking=found.thinking,
            )
        )  # fmt: skip
    return items


def answers(path: Path, text: str) -> list[Item]:
    """Read JSON Lines with question and answer, both text; the answer counts as a whole. Area: knowledge."""
    language, items = _language(text), []
    for line, raw in _json_lines(path, text):
        question, answer = _texts(path, line, raw, "question", "answer")
        items.append(_answer(path, line, "knowledge", language, question, answer, answer.strip(), "text"))
    return items


def plain_text(path: Path, text: str) -> list[Item]:
    """Read the whole file as one text; no item where it is blank. Area: knowledge."""
    return [Item(path.stem, "text", "knowledge", _language(text), text)] if text.strip() else []


READERS: Mapping[str, Reader] = {
    "answers": answers,
    "choice": choice,
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "mgsm": mgsm,
    "questions": questions,
    "text": plain_text,
}


def recognise(path: Path, text: str) -> Reader:
    """Reader for a data file, by its name and its first line; InputError where none fits."""
    suffix = path.suffix.lower()
    by_suffix: dict[str, Reader] = {".txt": plain_text, ".md": plain_text, ".tsv": mgsm, ".csv": choice}
    if suffix in by_suffix:
        return by_suffix[suffix]
    if suffix != ".jsonl":
        raise InputError(f"{path}: expected .jsonl, .tsv, .csv or .txt data, or a .toml that describes data files")
    line, raw = next(_json_lines(path, text), (1, {}))
    if raw.keys() >= _CODE:
        return humaneval
    if raw.keys() >= _QUESTION:
        return questions
    if raw.keys() >= {"question", "answer"}:
        return gsm8k if "####" in str(raw["answer"]) else answers
    raise InputError(
        f"{path}, line {line}: fields {', '.join(raw) or 'none'}; expected question and answer, or HumanEval's "
        f"({', '.join(sorted(_CODE))})"
    )


def _answer(
    path: Path,
    line: int,
    area: str,
    language: str,
    question: str,
    whole: str,
    final: str,
    answer_format: AnswerFormat,
) -> Item:
    return Item(f"{path.stem}-{line}", "answer", area, language, question, whole, final, answer_format)


def _choice_item(path: Path, line: int, language: str, cells: list[str]) -> Item:
    """Item of the cells question, choices, letter."""
    question, *choices, letter = cells
    letters = LETTERS[: len(choices)]
    if len(letter) != 1 or letter.upper() not in letters:
        raise InputError(f"{path}, line {line}: answer {letter!r}: expected one of {', '.join(letters)}")
    options = "\n".join(f"{name}. {option}" for name, option in zip(letters, choices))
    prompt = f"{question}\n{options}\n{_CHOOSE.get(language, _CHOOSE['en'])}"
    return Item(
        f"{path.stem}-{line}", "choice", "knowledge", language, prompt, letter.upper(), letter.upper(),
        choices=tuple(choices),
    )  # fmt: skip


def _header(row: list[str]) -> tuple[int, int] | None:
    """(Column of the question, number of choices) if `row` is a header, else None."""
    names = [cell.strip().casefold() for cell in row]
    if "question" not in names or names[-1] != "answer":
        return None
    first = names.index("question")
    count = len(names) - first - 2
    return (first, count) if names[first + 1 : -1] == list(LETTERS[:count].casefold()) and count > 1 else None


def _language(text: str) -> str:
    return detect_language(text[:_LANGUAGE_SAMPLE])


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in json_lines(text, refusal(path, "not JSON")):
        if not isinstance(raw, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object")
        yield number, raw


def _texts(path: Path, line: int, raw: Mapping[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(raw.get(name), str) or not raw[name].strip():
            raise InputError(f"{path}, line {line}: {name}: expected text that is not empty")
    return [raw[name] for name in names]
