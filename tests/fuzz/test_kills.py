"""Commands stopped at random moments: each ends at once, and the same command then makes the same bytes.

A case is a number (tests/fuzz/cases.py): the command, the signal and the moment, a share of the time that the command
takes when nobody stops it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.fuzz.cases import counts

DEMO_MODEL = str(files("q3edge.data") / "demo_model")
# In a folder of its own that the command starts with int4 and int8, finished ONNX models; all else there is its own.
FEW = ("--samples", "6", "--seq-len", "128")
COMMANDS: dict[str, tuple[str, ...]] = {
    "build --overwrite": ("build", DEMO_MODEL, "-o", "int4", "--method", "rtn", "--max-tokens", "128", "--overwrite"),
    "quantize": ("quantize", DEMO_MODEL, "-o", "out", "--method", "gptq", *FEW),
    "quantize --method rtn": ("quantize", DEMO_MODEL, "-o", "out", "--method", "rtn"),
    "quantize --reconstruct": ("quantize", DEMO_MODEL, "-o", "out", "--method", "gptq", *FEW, "--reconstruct"),
    "build": ("build", DEMO_MODEL, "-o", "out", "--format", "int8", "--kv", "int8", *FEW, "--max-tokens", "128"),
    "build --target-size": ("build", DEMO_MODEL, "-o", "out", "--target-size", "2MB", *FEW, "--max-tokens", "128"),
    "export": ("export", DEMO_MODEL, "-o", "out", "--format", "float"),
    "sweep": ("sweep", DEMO_MODEL, "-o", "out", "--formats", "int8,int4", "--method", "rtn", "--limit", "4",
              "--no-speed"),
    "eval": ("eval", "int4", "--reference", DEMO_MODEL, "--limit", "4", "--generate", "8"),
    "report": ("report", "int4", "int8", "-o", "page.html", "--reference", DEMO_MODEL, "--limit", "4", "--no-speed"),
    "validate": ("validate", "int4", "--reference", DEMO_MODEL, "--max-tokens", "512"),
    "run": ("run", "int4", "1", "--raw", "--max-new-tokens", "300", "--temperature", "0"),
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SECONDS = r"[\d.]+ s\b"  # that something took
ENDS_IN = 60  # seconds behind the signal; it stands for "never"


@dataclass(frozen=True)
class Done:
    """What a command made when nobody stopped it: what it printed, and the digest of every file in its folder."""

    seconds: float
    output: str
    files: dict[str, str]


class Kills:
    """Runs commands in folders of their own, and remembers what each makes."""

    def __init__(self, folder: Path, models: Path) -> None:
        self._folder, self._models, self._done = folder, models, dict[str, Done]()

    def reference(self, name: str) -> Done:
        """Result of a command that nobody stops."""
        if name not in self._done:
            place, start = self._place(f"reference {name}"), time.monotonic()
            output = self._finish(name, place)
            self._done[name] = Done(time.monotonic() - start, output, digests(place))
        return self._done[name]

    def kill(self, case: str, name: str, number: signal.Signals, share: float) -> None:
        """Stop a command, and check how it ends and what the same command makes then."""
        expected, place = self.reference(name), self._place(case)
        process = self._start(name, place)
        time.sleep(share * expected.seconds)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=ENDS_IN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{case}: does not end") from None
        if process.returncode != 0:  # else it was done before the signal came
            assert shell_code(process.returncode) == 128 + number, f"{case}: {errors}"
        assert "Traceback" not in errors, f"{case}: {errors}"
        _, alive = psutil.wait_procs(children, timeout=ENDS_IN)
        assert not alive, f"{case}: leaves {alive}"
        if number != signal.SIGKILL:
            left = [path.name for path in place.iterdir() if path.name.startswith(".")]
            assert not [name for name in left if ".partial-" in name or name.endswith(".lock")], f"{case}: {left}"
        output = self._finish(name, place, again=True)
        assert digests(place) == expected.files, case
        assert re.sub(SECONDS, "", output) == re.sub(SECONDS, "", expected.output), case

    def _place(self, name: str) -> Path:
        place = self._folder / name.replace(" ", "_")
        (place / "home").mkdir(parents=True)
        for model in self._models.iterdir():
            subprocess.run(["cp", "-r", model, place], check=True)
        return place

    def _start(self, name: str, place: Path, *, again: bool = False) -> subprocess.Popen[str]:
        arguments = COMMANDS[name]
        if again and "--overwrite" not in arguments and (place / "out").exists() and name != "sweep":
            arguments = (*arguments, "--overwrite")  # it was done before the signal came
        environment = {**os.environ, "Q3EDGE_CACHE": str(place / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            [sys.executable, "-m", "q3edge", *arguments],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _finish(self, name: str, place: Path, *, again: bool = False) -> str:
        process = self._start(name, place, again=again)
        output, errors = process.communicate()
        assert process.returncode == 0, f"{name}: {errors}"
        return output


def shell_code(code: int) -> int:
    """Exit code as a shell has it: a process that is ended by a signal while Python itself ends is no other case."""
    return code if code >= 0 else 128 - code


def digests(place: Path) -> dict[str, str]:
    """Digest of every file of a folder, and empty ones of folders, by relative path; nothing of the cache in home."""
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(_content(path)).hexdigest() if path.is_file() else ""
        for path in sorted(place.rglob("*"))
        if place / "home" not in path.parents
    }


def _content(path: Path) -> bytes:
    """Content of a file; of JSON without the seconds that something took, which are never the same."""
    if path.suffix != ".json":
        return path.read_bytes()
    return repr(json.loads(path.read_bytes(), object_hook=_timeless)).encode()


def _timeless(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("seconds", "timing")}


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    models = tmp_path_factory.mktemp("models")
    for name in ("int4", "int8"):
        command = [
            "build",
            DEMO_MODEL,
            "-o",
            str(models / name),
            "--format",
            name,
            "--method",
            "rtn",
            "--max-tokens",
            "128",
        ]
        subprocess.run([sys.executable, "-m", "q3edge", *command], check=True, capture_output=True)
    return Kills(tmp_path_factory.mktemp("kills"), models)


@pytest.mark.slow
def test_commands_that_are_stopped_make_the_same_bytes_when_run_again(kills: Kills) -> None:
    names = list(COMMANDS)
    for index, source in counts("kills", 2, 120):
        name, number = names[index % len(names)], source.choice(SIGNALS)
        kills.kill(f"kills:{index} {name} {number.name}", name, number, source.random())
