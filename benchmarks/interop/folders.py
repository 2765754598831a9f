"""The folders that are read, one for each format of `q3edge build`, and what q3edge itself makes of the prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import q3edge
from q3edge.formats import FLOAT, FORMATS
from q3edge.runtime.session.decoder import Decoder

NEW_TOKENS = 48
PROMPTS = (
    "What is 4831 + 2977?",
    "Which colour does snow have?",
    "Tom has 3 apples and buys 4 more. How many apples does he have now?",
    "Give the output of: print([7, 4, 9, 1][::-1])",
    "Which is smaller, 695 or 199?",
    "Was ist 2 + 5? 你好 🙂",
    "Spell the word elephant backwards.",
)
# Name of a folder -> flags of `build`.
FOLDERS: dict[str, tuple[str, ...]] = {
    **{name: ("--format", name) for name in (FLOAT, *FORMATS)},
    **{f"{name}, int8 cache": ("--format", name, "--kv", "int8") for name in FORMATS},
    "int4, last logits": ("--format", "int4", "--last-logits"),
    "int4, saved by transformers 5": ("--format", "int4"),
}


class Folder:
    """One model that q3edge wrote."""

    def __init__(self, work: Path, name: str) -> None:
        self.name = name
        self.path = work / "models" / name.replace(", ", "-").replace(" ", "-")
        self.job_file = work / "jobs" / f"{self.path.name}.json"

    def build(self, *, again: bool) -> None:
        """Make the folder and its job, unless both are there."""
        if self.job_file.exists() and not again:
            return
        model = files("q3edge.data") / "demo_model"
        if self.name.endswith("transformers 5"):
            model = _saved_again(str(model), self.job_file.parents[1] / "checkpoint")
        _q3edge("build", str(model), "-o", str(self.path), "--overwrite", "--max-tokens", "2048", *FOLDERS[self.name])
        self.job_file.parent.mkdir(parents=True, exist_ok=True)
        self.job_file.write_text(json.dumps(self._job(), indent=1))

    def _job(self) -> dict[str, Any]:
        with q3edge.load(self.path) as model:
            stops = sorted(model.settings().stop_token_ids or ())
            ids = [model.encode_chat(prompt) for prompt in PROMPTS]
        flags = ("--temperature", "0", "--no-speculate", "--max-new-tokens", str(NEW_TOKENS), "--json")
        answers = [json.loads(_q3edge("run", str(self.path), prompt, *flags))["token_ids"] for prompt in PROMPTS]
        prompts = [
            {"messages": [{"role": "user", "content": text}], "ids": given, "answer": answer}
            for text, given, answer in zip(PROMPTS, ids, answers)
        ]
        return {"folder": str(self.path.resolve()), "new": NEW_TOKENS, "stops": stops, "prompts": prompts}

    @property
    def job(self) -> dict[str, Any]:
        """As runtimes/contract.py says."""
        found: dict[str, Any] = json.loads(self.job_file.read_text())
        return found

    @property
    def stated_kl(self) -> float | None:
        """Mean KL to the float model that the folder's manifest states; None: it is float."""
        manifest = json.loads((self.path / "q3edge.json").read_text())
        if not manifest["recipe"]["rules"]:
            return None
        value: float = manifest["metrics"]["validation"]["overall"]["mean_kl"]["value"]
        return value


def logits_of(folder: Folder, job: dict[str, Any]) -> NDArray[np.float32]:
    """q3edge's logits float32 [positions, V] of each prompt of `job` with its answer, one behind the other."""
    decoder = Decoder(folder.path)
    rows = []
    for prompt in job["prompts"]:
        ids = np.array([prompt["ids"] + prompt["answer"]])
        rows.append(decoder.forward(ids, decoder.new_cache(ids.size), keep=0)[0])
    return np.concatenate(rows)


def _saved_again(model: str, folder: Path) -> Path:
    """The checkpoint and its tokenizer as fine-tunes are: written by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

    if int(__version__.split(".")[0]) < 5:
        raise SystemExit(f"transformers {__version__} is installed; 5 is needed to save the checkpoint")
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def _q3edge(*arguments: str) -> str:
    command = [sys.executable, "-m", "q3edge", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
