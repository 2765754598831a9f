"""`Suite` and `Item`: the questions and texts that a model is asked. `readers` reads the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# text: read, no answer. answer: exact match. choice: one of `choices`. code: `test` must run.
ItemKind = Literal["text", "answer", "choice", "code"]
# How two answers are compared: as they are, as numbers, or as JSON values.
AnswerFormat = Literal["text", "number", "json"]
LETTERS = "ABCDEFGHIJ"  # of the choices


@dataclass(frozen=True, slots=True)
class Item:
    """One question or text.

    prompt: all that the model is asked, the lettered choices included, or the text itself; of kind code the beginning
    of a program. answer: the whole right answer, a worked solution included.
    final: what of it counts (the number after ####, the letter). choices: in the order of their letters A, B, C ...
    test, entry_point: of HumanEval. thinking: asked to think first; None: as the model's template does by default.
    """

    id: str
    kind: ItemKind
    area: str
    language: str
    prompt: str
    answer: str = ""
    final: str = ""
    answer_format: AnswerFormat = "text"
    choices: tuple[str, ...] = ()
    test: str = ""
    entry_point: str = ""
    thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Items that belong together; at least one. `digest`: hex sha256 of what was read. `source`: for people."""

    name: str
    items: tuple[Item, ...]
    digest: str
    source: str
