"""`program`: the Python source that an answer to an item of kind code means, however it is wrapped.

What compiles decides between two ways of reading an answer, never what a test would say.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence

from q3edge.evaluation.suites.suite import Item

_FENCE = re.compile(r"(?:^|.*[^`~])(`{3,}|~{3,})[ \t]*([^`]*)$")
_PYTHON = re.compile(r"(?:\{?\s*\.?(?:python|py)[\d.]*\b.*)?", re.IGNORECASE)
_GIVES = re.compile(r"\b(?:return|yield|raise)\b")
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_DEFINITIONS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
)  # fmt: skip
_INDENT = "    "


def program(item: Item, answer: str) -> str:
    """Assemble the source of a program that defines the item's function as `answer` has it, behind the item's prompt.

    The answer is a body that goes on where the prompt ends; or the last fenced block of Python that defines the
    function, or the text without a fence that does, prose around it left out; or else the last block that gives
    something back, as the body. Names that it lacks come from the other blocks. An answer that is none of these gives a
    program that fails.
    """
    answer = answer.replace("\r\n", "\n")
    if _begins_indented(answer) and (source := _first_that_parses(_continued(item.prompt, answer))):
        return source + _lacking(source, [answer])
    blocks = list(_blocks(answer)) or [answer]
    name = re.escape(item.entry_point)
    defines = re.compile(rf"^[ \t]*(?:async\s+)?def\s+{name}\b|^{name}\s*=(?!=)", re.MULTILINE)
    whole = next((block for block in reversed(blocks) if defines.search(block)), None)
    if whole is None:
        body = next((block for block in reversed(blocks) if _GIVES.search(block)), blocks[-1])
        source = _first_that_parses(_bodies(item.prompt, body)) or item.prompt + body
        return source + _lacking(source, blocks)
    start = standing(item.prompt, item.entry_point)
    code = _first_that_parses([textwrap.dedent(whole), _function(whole, defines)]) or whole
    future = "".join(_FUTURE.findall(code))
    return f"{future}{start}\n{_lacking(start + code, blocks)}\n{_FUTURE.sub('', code)}\n"


def standing(prompt: str, entry_point: str) -> str:
    """A prompt as source that stands alone: with a body for its function, or, if that is no Python, what is before it.

    Tests and answers may use what it imports and defines.
    """
    before = prompt[: max(prompt.find(f"def {entry_point}"), 0)]
    return _first_that_parses([prompt, f"{prompt}\n{_INDENT}pass\n"]) or before


def _continued(prompt: str, answer: str) -> Iterator[str]:
    """Sources for an answer that goes on in the body: as far as the body goes, indented as it is or as the prompt."""
    body = re.split(r"\n(?=\S)", answer.lstrip("\n"))[0].rstrip() + "\n"
    yield prompt + body
    yield prompt + "\n" + textwrap.indent(textwrap.dedent(body), _INDENT)


def _bodies(prompt: str, code: str) -> Iterator[str]:
    """Sources for code, maybe below a line of prose, that is the body only."""
    code = code.strip("\n")
    if _begins_indented(code):
        yield from _continued(prompt, code)
    yield f"{prompt}\n{textwrap.indent(code, _INDENT)}\n"
    yield f"{prompt}\n{_INDENT}{code}\n"  # its first line alone has lost the indentation
    if (indented := re.search(r"^[ \t]+\S", code, re.MULTILINE)) is not None:
        yield from _continued(prompt, code[indented.start() :])


def _blocks(answer: str) -> Iterator[str]:
    """Fenced blocks of Python; all blocks, where none is marked as Python or not marked."""
    found: list[tuple[str, str]] = []
    fence, language, lines = "", "", list[str]()
    for line in answer.split("\n"):
        mark = _FENCE.match(line)
        if not fence:
            if mark and line.count(mark[1]) == 1:
                fence, language, lines = mark[1], mark[2].strip(), []
        elif line.rstrip().endswith(fence):
            lines.append(line.rstrip().rstrip(fence[0]))
            found.append((language, "\n".join(lines)))
            fence = ""
        else:
            lines.append(line)
    if fence:  # the answer was cut
        found.append((language, "\n".join(lines)))
    python = [code for language, code in found if _PYTHON.fullmatch(language)]
    yield from python or [code for _, code in found]


def _function(text: str, defines: re.Pattern[str]) -> str:
    """The function out of a text that holds more: its decorators, its first line, and what is indented below it."""
    found = list(defines.finditer(text))[-1]
    above, below = text[: found.start()].split("\n"), text[found.start() :].split("\n")
    indent = len(below[0]) - len(below[0].lstrip())
    end = next((n for n, line in enumerate(below) if n and line.strip() and not line[: indent + 1].isspace()), None)
    above = above[:-1] if not above[-1].strip() else above
    start = len(above)
    while start and above[start - 1].lstrip().startswith("@"):
        start -= 1
    return textwrap.dedent("\n".join([*above[start:], *below[:end]]))


def _lacking(source: str, blocks: Sequence[str]) -> str:
    """Imports and definitions out of `blocks` for names that the source uses and nobody binds, and what these use."""
    offered = [statement for block in blocks for statement in _definitions(block)]
    taken: list[str] = []
    while lacks := _unbound("\n".join([source, *taken])):
        more = {code for code, bound in offered if bound & lacks or not bound}.difference(taken)
        if not more:
            break
        taken = [code for code, _ in offered if code in more or code in taken]
    return "\n".join(["", *taken, ""])


def _definitions(text: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Definitions at the margin of a text, prose left out, with the names they bind (an import of *: none)."""
    text = textwrap.dedent(text)
    for part in [text] if _parse(text) is not None else _parts(text):
        lines = part.split("\n")
        for node in _parse(part) or ():
            if isinstance(node, _DEFINITIONS):
                first = min([node.lineno, *(above.lineno for above in getattr(node, "decorator_list", ()))])
                yield "\n".join(lines[first - 1 : node.end_lineno]), frozenset(_bound([node]))


def _parts(text: str) -> Iterator[str]:
    """Parts of a text that each begin at the margin; decorators stay with what they decorate."""
    part: list[str] = []
    for line in text.split("\n"):
        if part and line[:1].strip() and line[0] not in ")]}" and not part[-1].startswith("@"):
            yield "\n".join(part)
            part = []
        part.append(line)
    yield "\n".join(part)


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that statements bind in the scope they stand in."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _unbound(source: str) -> set[str]:
    """Names that a source reads and binds nowhere."""
    nodes = [inner for node in _parse(source) or () for inner in ast.walk(node)]
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    given = {node.arg for node in nodes if isinstance(node, ast.arg)}
    return read - stored - given - set(_bound(nodes)) - set(vars(builtins))


def _begins_indented(text: str) -> bool:
    first = text.lstrip("\n").split("\n")[0]
    return first[:1].isspace() and bool(first.strip()) and not _FENCE.match(first)


def _first_that_parses(sources: Iterable[str]) -> str | None:
    return next((source for source in sources if _parse(source) is not None), None)


def _parse(source: str) -> list[ast.stmt] | None:
    """Statements of a source; None: it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes that Python does not know
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
