"""How far quantized weights move a model's predictions: KL divergence to the float model, whoever quantized them.

    python benchmarks/accuracy/judge.py CHECKPOINT tokens.npz FOLDER... [--json FILE]

FOLDER is a peer's output (`dequantized.safetensors`) or a checkpoint that q3edge quantized. Activations stay float32
in every case, so only the weights differ; one forward pass, q3edge's, runs them all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from q3edge.architecture.config import CONFIG_FILE, Qwen3Config
from q3edge.architecture.tensors import LM_HEAD, tensor_shapes
from q3edge.checkpoint import open_float_model, open_quantized_model
from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.checkpoint.source import WeightSource
from q3edge.evaluation.distance.logits import compare_logits
from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.statistics import Comparison, Estimate, summarize
from q3edge.evaluation.distance.windows import Window
from q3edge.reference.model import LogitsHead, hidden_states
from q3edge.storage.json_files import read_json_object

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine, machine_line

DEQUANTIZED = "dequantized.safetensors"
GGUF_FILE = "model.gguf"
_CHUNK = 128  # tokens whose candidate logits are in memory at once
_THREADS = os.cpu_count() or 1


class Dequantized:
    """A WeightSource over a peer's output: float32 tensors under Hugging Face names.

    A tool may untie the head (embedding and head rounded differently); the file then has `lm_head.weight`.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self._file = SafetensorsFile(folder / DEQUANTIZED)
        tied = LM_HEAD not in self._file.entries
        raw = read_json_object(checkpoint / CONFIG_FILE) | {"tie_word_embeddings": tied}
        self.config = Qwen3Config.from_dict(raw, str(checkpoint / CONFIG_FILE))
        shapes = {name: entry.shape for name, entry in self._file.entries.items()}
        if shapes != tensor_shapes(self.config):
            wrong = sorted(set(shapes.items()) ^ set(tensor_shapes(self.config).items()))
            raise SystemExit(f"{folder}: not the checkpoint's tensors, first difference: {wrong[0]}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def scheme(self, name: str) -> None:
        """Nothing is known of how the peer stored it."""

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """float32 values of a tensor or a range of its rows."""
        return self._file.read_float(name, rows)

    def read_quantized(self, name: str, rows: slice | None = None) -> NoReturn:
        """TypeError: there are no codes to read."""
        raise TypeError(f"{name} is a float tensor")


class Judge:
    """The float model's predictions for the judging tokens, computed once for any number of candidates."""

    def __init__(self, checkpoint: Path, tokens: Path) -> None:
        with np.load(tokens) as stored:
            self._ids = stored["judging"]
            self._texts = [str(text) for text in stored["judging_text"]]
        self.checkpoint = checkpoint

    def metrics(self, folders: Sequence[Path]) -> Iterator[tuple[Path, list[TokenMetrics]]]:
        """Each folder with one TokenMetrics per window.

        Window by window: the float logits of a window serve all candidates, and one candidate's head is in memory.
        """
        with ExitStack() as stack:
            reference = open_float_model(self.checkpoint)
            stack.callback(reference.close)
            sources = [self._open(folder, stack) for folder in folders]
            inputs = self._ids[:, :-1]
            _say("float model")
            exact = hidden_states(reference, inputs)
            hidden = []
            for folder, source in zip(folders, sources):
                _say(str(folder))
                hidden.append(hidden_states(source, inputs))
            found: list[list[TokenMetrics]] = [[] for _ in folders]
            exact_head = LogitsHead(reference)
            for number, text in enumerate(self._texts):
                _say(f"window {number + 1} of {len(self._texts)}")
                window = Window(text, self._ids[number])
                logits = exact_head.logits(exact[number]).numpy()
                for source, states, parts in zip(sources, hidden, found):
                    parts.append(_compare(logits, LogitsHead(source), states[number], window.targets))
            yield from zip(folders, found)

    def summary(self, windows: Sequence[TokenMetrics]) -> dict[str, Comparison]:
        """ "all" and each text by name."""
        per_text = {
            text: summarize([found for found, name in zip(windows, self._texts) if name == text])
            for text in dict.fromkeys(self._texts)
        }
        return {"all": summarize(windows), **per_text}

    def _open(self, folder: Path, stack: ExitStack) -> WeightSource:
        if (folder / DEQUANTIZED).exists():
            source = Dequantized(folder, self.checkpoint)
            stack.callback(source.close)
            return source
        if (folder / GGUF_FILE).exists():
            return stack.enter_context(open_float_model(folder / GGUF_FILE))
        return stack.enter_context(open_quantized_model(folder))


def judge(checkpoint: Path, tokens: Path, folders: Sequence[Path]) -> dict[Path, dict[str, Comparison]]:
    """Folder -> "all" and each text's name -> its comparison with the float model."""
    court = Judge(checkpoint, tokens)
    return {folder: court.summary(windows) for folder, windows in court.metrics(folders)}


def interval(estimate: Estimate, digits: int = 4) -> str:
    """0.1234 [0.1200, 0.1300]"""
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def table(results: Mapping[Path, Mapping[str, Comparison]]) -> str:
    """Markdown, best first."""
    texts = dict.fromkeys(chain.from_iterable(results.values()))
    names = [text for text in texts if text != "all"]
    lines = [
        "| folder | mean KL [95 % CI] | top-1 | perplexity (float) | " + " | ".join(f"KL {n}" for n in names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for folder, found in sorted(results.items(), key=lambda item: item[1]["all"].mean_kl.value):
        whole = found["all"]
        cells = [
            folder.name,
            interval(whole.mean_kl),
            f"{whole.top1_agreement.value:.4f}",
            f"{whole.candidate_perplexity.value:.3f} ({whole.reference_perplexity.value:.3f})",
            *(f"{found[name].mean_kl.value:.4f}" for name in names),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Judge the folders and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    results = judge(options.checkpoint, options.tokens, options.folders)
    print(machine_line(), table(results), sep="\n\n")
    if options.json:
        document: dict[str, Any] = {
            str(folder): {"machine": machine()} | {name: asdict(value) for name, value in found.items()}
            for folder, found in results.items()
        }
        options.json.write_text(json.dumps(document, indent=1))


def _compare(
    exact: NDArray[np.float32], head: LogitsHead, hidden: torch.Tensor, targets: NDArray[np.int64]
) -> TokenMetrics:
    def part(rows: slice, logits: NDArray[np.float32]) -> TokenMetrics:
        return compare_logits(exact[rows], logits[rows.start - start : rows.stop - start], targets[rows])

    parts: list[TokenMetrics] = []
    piece = -(-_CHUNK // _THREADS)
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy leaves the interpreter's lock inside every row's functions
        for start in range(0, len(hidden), _CHUNK):
            stop = min(start + _CHUNK, len(hidden))
            logits = head.logits(hidden[start:stop]).numpy()
            rows = [slice(first, min(first + piece, stop)) for first in range(start, stop, piece)]
            parts += pool.map(part, rows, [logits] * len(rows))
    return TokenMetrics.concatenate(parts)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
