"""Files -> `Suite`s: data as published, or described by a TOML header beside it; and the built-in suites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from q3edge.errors import InputError
from q3edge.evaluation.distance.windows import Text, built_in_texts
from q3edge.evaluation.suites.readers import READERS, Reader, questions, recognise
from q3edge.evaluation.suites.suite import AnswerFormat, Item, Suite
from q3edge.storage.digests import parts_digest
from q3edge.storage.text_files import parse_toml, read_utf8

_HEADER = ("name", "area", "language", "reader", "files", "prompt", "answer_format", "source")
_QUESTION = "{question}"
_SEVERAL_LANGUAGES = "mul"  # ISO 639-2


def read_suites(paths: Sequence[Path]) -> tuple[Suite, ...]:
    """Read one suite per file. InputError: as `read_suite`, or two have one name, which tables could not tell apart."""
    suites = tuple(map(read_suite, paths))
    name, count = max(Counter(suite.name for suite in suites).items(), key=lambda found: found[1], default=("", 0))
    if count > 1:
        raise InputError(f"{count} suites are called {name!r}; rename a file, or give it a name in a .toml header")
    return suites


def read_suite(path: Path) -> Suite:
    """Read a data file, whose format its name and first line tell, or a .toml header; docs/evaluation.md has both.

    InputError: names the file, and the line or key that is wrong.
    """
    if path.suffix.lower() == ".toml":
        return _described(path)
    text = read_utf8(path)
    items = _checked(path, recognise(path, text)(path, text))
    return Suite(path.stem, items, _digest(text), path.name)


def built_in_suites() -> tuple[Suite, ...]:
    """Built-in suites, for any model: the embedded model's held-out questions, and the validation texts."""
    held_out = files("q3edge.data") / "demo_model" / "questions.jsonl"
    text = held_out.read_text(encoding="utf-8")
    texts = built_in_texts()
    items = tuple(map(_text_item, texts))
    return (
        Suite("built-in questions", tuple(questions(Path(held_out.name), text)), _digest(text), "q3edge"),
        Suite("built-in texts", items, _digest(*(found.content for found in texts)), "q3edge"),
    )


def _text_item(text: Text) -> Item:
    language = _SEVERAL_LANGUAGES if text.name == "multilingual" else "en"
    return Item(text.name, "text", text.name, language, text.content)


def _described(path: Path) -> Suite:
    header_text = read_utf8(path)
    header = parse_toml(header_text, path)
    if unknown := [key for key in header if key not in _HEADER]:
        raise InputError(f"{path}: {unknown[0]}: unknown key; expected {', '.join(_HEADER)}")
    for key, value in header.items():
        if key != "files" and not (isinstance(value, str) and value):
            raise InputError(f"{path}: {key} = {value!r}: expected text")
    names = header.get("files")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: files: expected a list of data files beside it")
    reader, changes = _reader(path, header), _changes(path, header)
    texts, items = [header_text], []
    for name in names:
        data = path.parent / name
        texts.append(read_utf8(data))
        found = (reader or recognise(data, texts[-1]))(data, texts[-1])
        items += [_described_item(item, changes, header.get("prompt")) for item in _checked(data, found)]
    name = header.get("name", path.stem)
    return Suite(name, _checked(path, items), _digest(*texts), header.get("source", path.name))


def _reader(path: Path, header: Mapping[str, Any]) -> Reader | None:
    name = header.get("reader")
    if name is not None and name not in READERS:
        raise InputError(f"{path}: reader = {name!r}: expected one of {', '.join(READERS)}")
    return READERS[name] if name else None


def _changes(path: Path, header: Mapping[str, Any]) -> dict[str, str]:
    """Fields of an item that the header sets."""
    if "prompt" in header and _QUESTION not in header["prompt"]:
        raise InputError(f"{path}: prompt: expected a text with {_QUESTION} in it")
    kind = header.get("answer_format", "text")
    if kind not in get_args(AnswerFormat):
        raise InputError(f"{path}: answer_format = {kind!r}: expected one of {', '.join(get_args(AnswerFormat))}")
    names = {field.name for field in fields(Item)} - {"prompt"}
    return {key: value for key, value in header.items() if key in names}


def _described_item(item: Item, changes: Mapping[str, Any], template: str | None) -> Item:
    prompt = item.prompt if template is None or item.kind == "text" else template.replace(_QUESTION, item.prompt)
    return replace(item, prompt=prompt, **changes)


def _checked(path: Path, items: Sequence[Item]) -> tuple[Item, ...]:
    """Check the items of a file; InputError: there are none, or two with one id."""
    if not items:
        raise InputError(f"{path}: no items; expected at least one")
    name, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {count} items have the id {name!r}; expected each once")
    return tuple(items)


def _digest(*texts: str) -> str:
    return parts_digest(text.encode() for text in texts)
