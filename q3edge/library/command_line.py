"""`command_line`: the command that does what a call of a public function does; reports say it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {
    "output": "-o",
    "page": "-o",
    "suites": "--suite",
    "thinking_budgets": "--thinking-budget",
}  # the others: as the argument
_SWITCHES = {"allow_code": "--allow-code", "cache": "--no-cache", "speed": "--no-speed"}
_REPEATED = ("suites", "calibration")  # given once for each value; other lists are joined by commas


def command_line(verb: str, words: Iterable[object], options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Compose the command line of `verb` with `words`; options that have their default are left out.

    Of absolute paths only the last name stands there: reports are handed on.
    """
    parts = ["q3edge", verb, *map(_shown, words)]
    for name, value in options.items():
        if value == defaults[name]:
            continue
        flag = _NAMES.get(name, f"--{name.replace('_', '-')}")
        if name in _SWITCHES:
            parts.append(_SWITCHES[name])
        elif not isinstance(value, list | tuple):
            parts += [flag, _shown(value)]
        elif name in _REPEATED:
            parts += [part for each in value for part in (flag, _shown(each))]
        else:
            parts += [flag, ",".join("none" if each is None else str(each) for each in value)]
    return shlex.join(parts)


def _shown(value: object) -> str:
    text = str(value)
    return os.path.basename(text) if os.path.isabs(text) else text
