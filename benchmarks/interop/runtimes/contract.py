"""What every script of a runtime takes and writes.

    run_RUNTIME JOB OUT      (in the runtime's environment; scripts in JavaScript take ENVIRONMENT behind that)

JOB is a JSON file: `folder`, `new` (tokens of an answer), `stops` (ids that end one), `prompts`, each with `messages`,
their `ids`, and `answer`, the ids that q3edge gives. OUT then holds `result.json`: `version`, `answers` (ids), and
`encoded`, the messages' ids by the runtime's own tokenizer and template, or null where it has none. `logits.bin` holds
float32 [V] of each position of each prompt with q3edge's answer behind it; no file: the graph gives them of the last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Messages = Sequence[dict[str, str]]


class Runtime(Protocol):
    """A runtime with a model loaded."""

    version: str

    def answer(self, ids: list[int], new: int, stops: Sequence[int]) -> list[int]:
        """Up to `new` greedy tokens behind `ids`; a stop token ends them and may be their last."""

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits float32 [S, V] of every position of `ids`; [1, V] where the graph gives the last only."""

    def encode(self, messages: Messages) -> list[int] | None:
        """Ids of a conversation by the runtime's own tokenizer and template; None: it has none."""


class Stepped:
    """Base of runtimes that are given a network only: the loop over tokens is here."""

    version: str

    def start(self, capacity: int) -> None:
        """Begin a sequence of up to `capacity` tokens."""
        raise NotImplementedError

    def step(self, ids: list[int]) -> NDArray[np.float32]:
        """Append `ids`; returns logits float32 [S or 1, V]."""
        raise NotImplementedError

    def answer(self, ids: list[int], new: int, stops: Sequence[int]) -> list[int]:
        """As Runtime says."""
        self.start(len(ids) + new)
        found = [int(self.step(ids)[-1].argmax())]
        while len(found) < new and found[-1] not in stops:
            found.append(int(self.step(found[-1:])[-1].argmax()))
        return found

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """As Runtime says."""
        self.start(len(ids))
        return self.step(ids)

    def encode(self, messages: Messages) -> list[int] | None:
        """None: no tokenizer."""
        return None


def run(open_runtime: Callable[[Path], Runtime]) -> None:
    """Do the job that the command line names; `open_runtime` is given the model's folder."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    runtime = open_runtime(Path(job["folder"]))
    prompts, new, stops = job["prompts"], job["new"], job["stops"]
    answers = [runtime.answer(prompt["ids"], new, stops) for prompt in prompts]
    logits = [runtime.logits(prompt["ids"] + prompt["answer"]) for prompt in prompts]
    encoded = [runtime.encode(prompt["messages"]) for prompt in prompts]
    if all(len(rows) == len(prompt["ids"]) + len(prompt["answer"]) for rows, prompt in zip(logits, prompts)):
        np.concatenate(logits).astype(np.float32).tofile(out / "logits.bin")
    result = {"version": runtime.version, "answers": answers, "encoded": None if None in encoded else encoded}
    (out / "result.json").write_text(json.dumps(result))
