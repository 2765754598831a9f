"""Each command is its public function: what its flags say, and by default say, is what the function takes."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

import q3edge
from q3edge.cli.main import cli, main
from q3edge.library import reporting
from q3edge.library.reporting import command_of

# The least that each verb has to be told, and the function that it calls.
VERBS = {
    "bench": ("bench", "DIR"),
    "build": ("build", "MODEL", "-o", "DIR"),
    "check": ("check", "DIR"),
    "demo": ("demo",),
    "diff": ("diff", "A", "B"),
    "eval": ("evaluate", "DIR", "--reference", "MODEL"),
    "export": ("export", "QDIR", "-o", "DIR"),
    "inspect": ("inspect", "MODEL"),
    "quantize": ("quantize", "MODEL", "-o", "DIR"),
    "report": ("make_report", "DIR", "-o", "FILE"),
    "sweep": ("sweep", "MODEL", "-o", "DIR"),
    "validate": ("validate", "DIR", "--reference", "MODEL"),
}


class _CalledError(Exception):
    """Ends the command where its function would begin."""


def called_with(monkeypatch: pytest.MonkeyPatch, function: str, *arguments: str) -> dict[str, Any]:
    """The arguments by name with which a command calls its function."""
    signature = inspect.signature(getattr(q3edge, function))
    found: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> None:
        found.update(signature.bind(*args, **kwargs).arguments)
        raise _CalledError

    monkeypatch.setattr(q3edge, function, record)
    assert main(arguments) == 1
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_gives_its_function_every_argument_with_the_function_s_own_default(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, *arguments = VERBS[verb]
    parameters = inspect.signature(getattr(q3edge, function)).parameters
    given = called_with(monkeypatch, function, verb, *arguments)
    assert given.keys() == parameters.keys() - {"progress"}
    given.pop("on_row", None)  # a listener, as progress is
    asked = {str(value) for value in arguments}
    for name, value in given.items():
        told = (str(value[0]) if name == "folders" else str(value)) in asked
        assert told or _plain(value) == parameters[name].default, name


def _plain(value: object) -> object:
    return str(value) if hasattr(value, "__fspath__") else value


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("build", "--format", "int8", "--kv", "int8"), {"recipe": "int8", "kv_cache": "int8"}),
        (("build", "--asymmetric", "--text", "a", "--text", "b"), {"symmetric": False}),
        (("build", "--last-logits"), {"last_logits": True}),
        (("quantize", "--samples", "2", "--target-size", "3MB"), {"samples": 2, "target_size": "3MB"}),
        (("sweep", "--formats", "int8, int4,", "--target-bpw", "3.5,4"), {"target_bpw": (3.5, 4.0)}),
        (("sweep", "--formats", "int8, int4,", "--no-speed"), {"formats": ("int8", "int4"), "speed": False}),
        (("sweep", "--no-cache", "--generate", "--areas", "math"), {"cache": False, "generate": 512}),
        (("sweep", "--generate", "8", "--areas", "math,code"), {"generate": 8, "areas": ("math", "code")}),
        (("sweep", "--thinking-budget", "0, 8,None"), {"thinking_budgets": (0, 8, None), "generate": None}),
        (("sweep", "--thinking-budget", "--areas", "math"), {"thinking_budgets": (0, 128, 512, 2048, None)}),
    ],
)
def test_flags_become_arguments(
    arguments: tuple[str, ...], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, *flags = arguments
    given = called_with(monkeypatch, verb, verb, "MODEL", "-o", "DIR", *flags)
    assert {name: given[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quantize", "MODEL", "-o", "DIR", "--samples", "1"), "1 is not in the range x>=2"),
        (("build", "MODEL", "-o", "DIR", "--threads", "0"), "0 is not in the range 1<=x<=1024"),
        (("bench", "DIR", "--depth", "0,x"), "'0,x': expected values such as 0,512,4096"),
        (("sweep", "MODEL", "-o", "DIR", "--target-bpw", "x"), "'x': expected values such as 3.5,4,4.5"),
        (("sweep", "MODEL", "-o", "DIR", "--target-bpw", "0"), "target_bpw[0] = 0.0: expected above 0"),
        (("bench", "DIR", "--depth", "-1"), "depths[0] = -1: expected at least 0"),
        (("build", "MODEL", "-o", "DIR", "--recipe", "x.toml", "--format", "int4"), "leave out --format"),
        (("check", "DIR", "--max-kl", "1", "--allow-code"), "add --generate"),
        (("eval", "DIR", "--reference", "M", "--thinking-budget", "8,x"), "expected values such as 0,128,512,none"),
        (
            ("eval", "DIR", "--reference", "M", "--thinking-budget", "0,-1"),
            "thinking_budgets[1] = -1: expected at least 0",
        ),
        (
            ("report", "DIR", "-o", "FILE", "--generate", "8", "--thinking-budget", "0,8"),
            "a thinking budget of 8 needs longer answers: --generate 520",
        ),
    ],
)
def test_values_out_of_range_are_usage_errors(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


@pytest.mark.parametrize(
    "line",
    [
        "q3edge report 'a b' c -o page.html",
        "q3edge report a --reference M -o p.html --json-file p.json --min-recovery 90.0 --no-speed --suite s --suite t "
        "--areas math,code --limit 3 --generate 9 --allow-code --thinking-budget 0,8,none --no-cache --threads 2",
        "q3edge sweep M -o out --formats int8,int4 --target-bpw 3.5,4.0 --method rtn --calibration x --calibration y "
        "--jobs 2 --max-kl 0.1",
    ],
)
def test_u22_the_command_that_a_report_names_is_the_one_that_was_given(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, verb, *arguments = shlex.split(line)
    function = {"report": "make_report"}.get(verb, verb)
    given = called_with(monkeypatch, function, verb, *arguments)
    assert command_of(verb, getattr(reporting, function), given) == line


def test_u22_the_command_tells_no_folders_of_the_machine(tmp_path: Path) -> None:
    given = {"model": tmp_path / "model", "output": tmp_path / "out", "calibration": (tmp_path / "text",)}
    assert command_of("sweep", reporting.sweep, given) == "q3edge sweep model -o out --calibration text"


TAKE_A_MODEL = ("inspect", "build", "quantize", "export", "sweep", "run", "chat", "bench", "diff", "report", "push")
TAKE_A_REFERENCE = ("validate", "eval", "check", "report")


@pytest.mark.parametrize(
    "words",
    [*([verb] for verb in TAKE_A_MODEL), ["diff", "a"], *([verb, "a", "--reference"] for verb in TAKE_A_REFERENCE)],
    ids=" ".join,
)
def test_shells_complete_folders_where_a_model_is_given(words: list[str]) -> None:
    found = ShellComplete(cli, {}, "q3edge", "_Q3EDGE_COMPLETE").get_completions(words, "q")
    assert [(item.value, item.type) for item in found] == [("q", "dir")]
