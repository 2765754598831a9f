"""Every command that a message, a hint or a help text of the product names exists, and has the options beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import q3edge
from q3edge.cli.main import cli

ROOT = Path(q3edge.__file__ or "").parent
# What may follow the program's name where it is the subject of a sentence.
WORDS = {
    "and", "again", "built", "can", "cannot", "code", "computes", "did", "does", "folder", "folders", "has",
    "imports", "in", "is", "it", "makes", "manifest", "minhash", "needs", "neither", "of", "on", "or", "q3edge",
    "raises", "reads", "ships", "that", "then", "this", "to", "version", "which", "with", "would", "writes", "wrote",
}  # fmt: skip
_NAMED = re.compile(r"\bq3edge ([a-z][a-z0-9-]*)([^`;]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
# Options of other programs that q3edge starts or names.
_OTHERS = {"--fork", "--kill-child", "--map-root-user", "--net", "--pid", "--user", "--mount", "--ipc", "--mount-proc"}
_OTHERS |= {"--force"}  # of /save, in a conversation
_OTHERS |= {"--version-script"}  # of the linker
_OTHERS |= {"--model", "--tasks", "--batch"}  # of lm-eval, the last up to its underscore


def literals() -> Iterator[tuple[str, str]]:
    """Place and text of every string in the product; what is filled in is {}. Parts of an f-string are one."""
    links = (ROOT / name for name in ("calibration", "exporters"))  # which rglob does not follow
    for path in sorted({path for folder in (ROOT, *links) for path in folder.rglob("*.py")}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                text = node.value
            else:
                continue
            yield f"{path.relative_to(ROOT)}:{node.lineno}", " ".join(text.split())


def options_of(command: click.Command) -> set[str]:
    names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return {name for name in names if name.startswith("--")} | {"--help", "--debug"}


def mistakes(text: str) -> list[str]:
    found = []
    for verb, rest in _NAMED.findall(text):
        if verb in cli.commands:
            unknown = set(_OPTION.findall(rest)) - options_of(cli.commands[verb])
            found += [f"q3edge {verb} has no {option}" for option in sorted(unknown)]
        elif verb not in WORDS:
            found.append(f"q3edge {verb} is no command")
    return found


def test_r21_commands_named_in_messages_exist_with_their_options() -> None:
    named = [(place, text) for place, text in literals() if "q3edge " in text]
    assert len(named) > 50  # the walk finds them
    assert [f"{place}: {mistake}" for place, text in named for mistake in mistakes(text)] == []


def test_r21_options_named_in_messages_exist() -> None:
    known = set[str]().union(_OTHERS, *map(options_of, cli.commands.values()), {"--version"})
    unknown = [
        f"{place}: {option}" for place, text in literals() for option in _OPTION.findall(text) if option not in known
    ]
    assert unknown == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("expected the JSON of `q3edge evaluate`", ["q3edge evaluate is no command"]),
        ("try: q3edge run {} --tempreature 0", ["q3edge run has no --tempreature"]),
        ("`q3edge run` first; then --out", []),
        ("a folder that q3edge wrote", []),
    ],
)
def test_r21_a_wrong_name_is_found(text: str, expected: list[str]) -> None:
    assert mistakes(text) == expected
