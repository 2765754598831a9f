"""The tokens of the accuracy benchmark: what every tool calibrates on and what every result is judged on.

    python benchmarks/accuracy/tokens.py CHECKPOINT --data FOLDER -o tokens.npz

FOLDER holds wikitext2-valid.txt, wikitext2-test.txt, gsm8k-train-600.jsonl, gsm8k-test.jsonl and humaneval.jsonl.
English, maths and code in equal parts, from disjoint sources: calibration takes the -valid and -train files and Python
sources of the interpreter's own library, judging the -test files and HumanEval. Python's library differs between
versions of the interpreter, so `tokens.npz` is what must be kept to repeat a run, not this command.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE, Qwen3Config
from q3edge.runtime.text.tokenizer import Tokenizer
from q3edge.storage.json_files import read_json_object

CALIBRATION = (128, 512)  # windows, tokens per window: 64k tokens, the size most tools' defaults are near
JUDGING = (16, 1024)
_MODULES = (
    "argparse", "bisect", "calendar", "configparser", "csv", "dataclasses", "difflib", "fractions", "functools",
    "graphlib", "heapq", "inspect", "ipaddress", "json.decoder", "pathlib", "queue", "random", "shutil", "statistics",
    "string", "textwrap", "tokenize", "urllib.parse", "uuid",
)  # fmt: skip


def calibration_texts(data: Path) -> dict[str, str]:
    """Name -> text."""
    return {
        "english": (data / "wikitext2-valid.txt").read_text(encoding="utf-8"),
        "maths": _joined(data / "gsm8k-train-600.jsonl", "question", "answer"),
        "code": "\n\n".join(_source(module) for module in _MODULES),
    }


def judging_texts(data: Path) -> dict[str, str]:
    """Name -> text; nothing of it is among the calibration texts."""
    return {
        "english": (data / "wikitext2-test.txt").read_text(encoding="utf-8"),
        "maths": _joined(data / "gsm8k-test.jsonl", "question", "answer"),
        "code": _joined(data / "humaneval.jsonl", "prompt", "canonical_solution"),
    }


def windows(
    texts: Mapping[str, str], tokenizer: Tokenizer, count: int, length: int
) -> tuple[NDArray[np.int64], list[str]]:
    """int64 [count, length] token ids and the text of each; the texts in turn, each spread evenly over its length."""
    names = [list(texts)[number % len(texts)] for number in range(count)]
    found: dict[str, list[NDArray[np.int64]]] = {}
    for name, text in texts.items():
        ids = np.asarray(tokenizer.encode_text(text), np.int64)
        wanted = names.count(name)
        if len(ids) < wanted * length:
            raise SystemExit(f"{name}: {len(ids)} tokens, {wanted} windows of {length} are wanted")
        starts = np.linspace(0, len(ids) - length, wanted).astype(int)
        found[name] = [ids[start : start + length] for start in starts]
    return np.stack([found[name].pop(0) for name in names]), names


def main() -> None:
    """Parse, cut, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path, help="whose tokenizer.json is used")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    config = Qwen3Config.from_dict(read_json_object(options.checkpoint / CONFIG_FILE), str(options.checkpoint))
    tokenizer = Tokenizer.load(options.checkpoint, config.vocab_size)
    calibration, calibration_names = windows(calibration_texts(options.data), tokenizer, *CALIBRATION)
    judging, judging_names = windows(judging_texts(options.data), tokenizer, *JUDGING)
    np.savez(
        options.output,
        calibration=calibration, calibration_text=calibration_names,
        judging=judging, judging_text=judging_names,
        python=platform.python_version(),
    )  # fmt: skip
    print(f"calibration {calibration.shape}, judging {judging.shape} -> {options.output}")


def _joined(path: Path, *fields: str) -> str:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    separator = "" if fields[0] == "prompt" else "\n"  # a solution continues its prompt's last line
    return "\n\n".join(separator.join(row[field] for field in fields) for row in rows)


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{module}: no source in this interpreter's library")
    return Path(spec.origin).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
