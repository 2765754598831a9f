"""What every speed worker does. Standard library only: what is imported here would count as the tool's own.

    speed_PEER.py convert CHECKPOINT FOLDER --variant NAME                  (in the environment of PEER.txt)
    speed_PEER.py serve CHECKPOINT FOLDER --variant NAME --threads N --reply FD

`convert` writes what the tool loads, and converted.json, into FOLDER. `serve` loads it, writes {"load": seconds}
(imports not counted) and answers the lines of stdin with a line of JSON each, to the file descriptor FD, because
libraries print to stdout as they like:

    PROMPT NEW   PROMPT random tokens into an empty context, then NEW greedy steps of one token each, whatever they
                 are: {"prefill": seconds, "decode": seconds}. The prefill ends when the first token is known.
    together CLIENTS PROMPT NEW    so many such prompts at the same time, each with NEW tokens in all: {"seconds": for
                 everything, "first": median seconds to a first token, null where the tool does not tell}. For tools
                 that batch.
    peak         {"peak_bytes": N}: the process's largest resident size so far.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

CONVERTED = "converted.json"


@dataclass(frozen=True)
class Times:
    """Seconds of a prefill, and of all the steps behind it."""

    prefill: float
    decode: float


class Engine(Protocol):
    """A loaded model."""

    def run(self, prompt: Sequence[int], new: int) -> Times:
        """The prompt into an empty context, then `new` greedy steps that no end-of-text token cuts short."""


@dataclass(frozen=True)
class Together:
    """Seconds of several requests at the same time: of all, and (median, None: unknown) to a first token."""

    seconds: float
    first: float | None = None


class StepEngine(ABC):
    """An Engine for tools that let the caller run the loop."""

    @abstractmethod
    def start(self, capacity: int) -> None:
        """Make an empty context for so many tokens; not timed, except before the first token of a process."""

    @abstractmethod
    def forward(self, tokens: Sequence[int]) -> int:
        """Append the tokens; the likeliest next one. Logits of the last position only, where the tool allows it."""

    def run(self, prompt: Sequence[int], new: int) -> Times:
        """Engine.run."""
        self.start(len(prompt) + new)
        begin = time.perf_counter()
        token = self.forward(prompt)
        first = time.perf_counter()
        for _ in range(new):
            token = self.forward([token])
        return Times(first - begin, time.perf_counter() - first)


@dataclass(frozen=True)
class Variant:
    """One way to convert and load.

    convert(checkpoint, folder); load(folder, threads). files: globs of the weights and the graph; the tokenizer does
    not count. note: what a reader of the table must know of it.
    """

    convert: Callable[[Path, Path], None]
    load: Callable[[Path, int], Engine]
    files: Sequence[str]
    note: str = ""


def main(package: str, variants: Mapping[str, Variant]) -> None:
    """Parse the arguments and convert or serve one variant of `package`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["convert", "serve"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=list(variants), required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reply", type=int, default=1)
    options = parser.parse_args()
    variant, checkpoint, folder = variants[options.variant], options.checkpoint.resolve(), options.folder.resolve()
    if options.action == "serve":
        reply = os.fdopen(options.reply, "w")
        begin = time.perf_counter()
        engine = variant.load(folder, options.threads)
        _answer(reply, {"load": time.perf_counter() - begin})
        _serve(engine, _vocabulary(checkpoint), reply)
        return
    folder.mkdir(parents=True, exist_ok=True)
    variant.convert(checkpoint, folder)
    found = {
        "version": version(package),
        "note": variant.note,
        "bytes": sum(path.stat().st_size for pattern in variant.files for path in folder.glob(pattern)),
        "checkpoint": str(checkpoint),
    }
    (folder / CONVERTED).write_text(json.dumps(found, indent=1) + "\n")


def link_files(checkpoint: Path, folder: Path) -> None:
    """Symbolic links in `folder` to the checkpoint's files, for a tool that loads it as it is."""
    for path in checkpoint.iterdir():
        (folder / path.name).symlink_to(path)


def _serve(engine: Any, vocabulary: int, reply: TextIO) -> None:
    """Answer until stdin ends. No two prompts are alike: some tools remember what they have seen.

    engine: an Engine; for "together" it has `run_together(prompts, new) -> Together` too.
    """
    choice = random.Random(0)
    for line in sys.stdin:
        if line.strip() == "peak":
            _answer(reply, {"peak_bytes": _peak_bytes()})
            continue
        if line.startswith("together"):
            clients, length, new = map(int, line.split()[1:])
            found = engine.run_together([_prompt(choice, vocabulary, length) for _ in range(clients)], new)
            _answer(reply, {"seconds": found.seconds, "first": found.first})
            continue
        length, new = map(int, line.split())
        times = engine.run(_prompt(choice, vocabulary, length), new)
        _answer(reply, {"prefill": times.prefill, "decode": times.decode})


def _prompt(choice: random.Random, vocabulary: int, length: int) -> list[int]:
    """Random ids away from both ends of the vocabulary, where the special tokens are."""
    return [choice.randrange(vocabulary // 4, vocabulary // 2) for _ in range(length)]


def _answer(reply: TextIO, values: Mapping[str, Any]) -> None:
    print(json.dumps(values), file=reply, flush=True)


def _peak_bytes() -> int:
    """VmHWM; ru_maxrss would start at what the parent process held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("/proc/self/status has no VmHWM")


def _vocabulary(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / "config.json").read_text())["vocab_size"])
