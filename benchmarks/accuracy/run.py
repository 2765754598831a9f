"""Accuracy at bytes on disk: q3edge and its peers on one model, the same calibration tokens, the same judging tokens.

    python benchmarks/accuracy/run.py CHECKPOINT tokens.npz --work FOLDER [--make-envs] [--only GLOB ...] [--again]

Every result stays in FOLDER/out/NAME, so a run that was cut off goes on where it stopped; --again makes the chosen
ones anew. A tool that cannot be installed or fails becomes a row that says why. The table is Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from judge import DEQUANTIZED, GGUF_FILE, Judge, interval

from q3edge.evaluation.distance.metrics import TokenMetrics
from q3edge.evaluation.distance.statistics import Comparison
from q3edge.version import VERSION

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import environments
from choice import chosen
from environments import PEER_FOLDER, last_line, python_of
from machine import machine
from processes import measure

# Name -> flags of `q3edge quantize`. {calibration}: the tokens that every tool is given, as a .npy file.
Q3EDGE: dict[str, tuple[str, ...]] = {
    "int4-mixed": ("--format", "int4-mixed", "--calibration", "{calibration}"),
    "rtn g32": ("--format", "int4", "--group-size", "32", "--method", "rtn"),
    "rtn g64": ("--format", "int4", "--group-size", "64", "--method", "rtn"),
    "rtn g32 symmetric": ("--format", "int4", "--group-size", "32", "--symmetric", "--method", "rtn"),
    "gptq g32": ("--format", "int4", "--group-size", "32", "--calibration", "{calibration}"),
    "gptq g64": ("--format", "int4", "--group-size", "64", "--calibration", "{calibration}"),
    "gptq g32 symmetric": ("--format", "int4", "--group-size", "32", "--symmetric", "--calibration", "{calibration}"),
    "gptq g32 tuned": ("--format", "int4", "--group-size", "32", "--calibration", "{calibration}", "--tune"),
    "gptq g32 reconstructed": (
        "--format",
        "int4",
        "--group-size",
        "32",
        "--calibration",
        "{calibration}",
        "--reconstruct",
    ),
    "90 MB": ("--target-size", "90MB", "--calibration", "{calibration}"),
    "97 MB": ("--target-size", "97MB", "--calibration", "{calibration}"),
    "104 MB": ("--target-size", "104MB", "--calibration", "{calibration}"),
    "91.5 MB reconstructed": ("--target-size", "91.5MB", "--calibration", "{calibration}", "--reconstruct"),
    "104 MB reconstructed": ("--target-size", "104MB", "--calibration", "{calibration}", "--reconstruct"),
    "1.869 MB": ("--target-size", "1.869MB", "--calibration", "{calibration}"),  # these for the embedded model
    "1.869 MB tuned": ("--target-size", "1.869MB", "--calibration", "{calibration}", "--reconstruct", "--tune"),
    "1.767 MB tuned": ("--target-size", "1.767MB", "--calibration", "{calibration}", "--reconstruct", "--tune"),
    "2.086 MB tuned": ("--target-size", "2.086MB", "--calibration", "{calibration}", "--reconstruct", "--tune"),
    "2.512 MB": ("--target-size", "2.512MB", "--calibration", "{calibration}"),  # these for the embedded mixture
    "2.611 MB": ("--target-size", "2.611MB", "--calibration", "{calibration}"),
    "2.725 MB": ("--target-size", "2.725MB", "--calibration", "{calibration}"),
}
# The same, exported for llama.cpp (`--to gguf`): variant -> flags of `q3edge quantize`. Every one is calibrated.
Q3EDGE_GGUF: dict[str, tuple[str, ...]] = {
    "Q4_0": ("--format", "int4", "--group-size", "32", "--symmetric", "--calibration", "{calibration}"),
    "Q4_1": ("--format", "int4", "--group-size", "32", "--calibration", "{calibration}"),
    "mixed": ("--format", "int4-mixed", "--calibration", "{calibration}"),
    "Q4_1 reconstructed": (
        "--format",
        "int4",
        "--group-size",
        "32",
        "--calibration",
        "{calibration}",
        "--reconstruct",
    ),
    # The tokenizer of the 135 M model takes 1.8 MB, which its peers leave out: the weights have the bytes of Q4_K_M.
    "105.4 MB reconstructed": (
        "--for",
        "gguf",
        "--target-size",
        "105.4MB",
        "--calibration",
        "{calibration}",
        "--reconstruct",
    ),
}
# Peer -> variants, cheapest first. benchmarks/peers/PEER.txt is its environment, run_PEER.py its script.
PEERS: dict[str, tuple[str, ...]] = {
    "onnxruntime-genai": ("default", "asymmetric", "k_quant"),
    "hqq": ("g32", "g64"),
    "llama-cpp": ("Q4_0", "Q4_1", "IQ4_NL", "Q4_K_M", "Q5_0", "Q8_0"),
    "nncf": ("g32", "g64"),
    "auto-round": ("light-g32-asym", "light-g64-asym", "light-g64-sym"),
    "gptqmodel": ("g32-asym", "g64-asym"),
    "olive": ("gptq-g32", "gptq-g64"),
}
SLOW: dict[str, tuple[str, ...]] = {"auto-round": ("default-g32-asym", "default-g64-asym", "default-g64-sym")}
_ONNX_FOLDER = "onnx"
_RESULT = "result.json"
_FAILED = "failed"  # an empty file: without it, a row that has no result was cut off
_JUDGED_AT_ONCE = 4  # share the float model's logits; what was judged is saved after each batch


@dataclass(frozen=True)
class Row:
    """One tool and variant, and the folder where its result lies."""

    tool: str
    variant: str
    out: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json; None: it failed or was not run."""
        path = self.out / _RESULT
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def weights(self) -> Path:
        """What the judge opens."""
        own = any((self.out / name).exists() for name in (DEQUANTIZED, GGUF_FILE))
        return self.out if own else self.out / "quantized"

    @property
    def failure(self) -> str:
        """The last line that the failed tool printed, or that there is no telling."""
        if self.out.exists() and not (self.out / _FAILED).exists():
            return "cut off before it finished; run it again"
        return last_line(self.out / "log.txt")


@dataclass(frozen=True)
class Benchmark:
    """The arguments."""

    checkpoint: Path
    tokens: Path
    work: Path
    envs: Path
    slow: bool

    def rows(self) -> Iterator[Row]:
        """Everything there is to run."""
        for name in Q3EDGE:
            yield self._row("q3edge", name)
        for name in Q3EDGE_GGUF:
            yield self._row("q3edge-gguf", name)
        for peers in (PEERS, SLOW) if self.slow else (PEERS,):
            for peer, variants in peers.items():
                yield from (self._row(peer, variant) for variant in variants)

    def make(self, row: Row) -> None:
        """Run one tool; its folder then holds a result or a log that ends with the reason."""
        shutil.rmtree(row.out, ignore_errors=True)
        row.out.mkdir(parents=True)
        try:
            if row.tool.startswith("q3edge"):
                self._make_q3edge(row)
            else:
                self._make_peer(row)
            if result := row.result:
                (row.out / _RESULT).write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n")
        except SystemExit:  # `measure` ends on a failed command; the log says why
            (row.out / _FAILED).touch()

    def _row(self, tool: str, variant: str) -> Row:
        return Row(tool, variant, self.work / "out" / f"{tool}-{variant.replace(' ', '-')}")

    def _make_peer(self, row: Row) -> None:
        log = row.out / "log.txt"
        python = python_of(row.tool, self.envs, log)
        script = PEER_FOLDER / f"run_{row.tool.replace('-', '_')}.py"
        arguments = [str(self.checkpoint), str(self.tokens), str(row.out), "--variant", row.variant]
        measure([[python, str(script), *arguments]], log)

    def _make_q3edge(self, row: Row) -> None:
        tokens = row.out / "calibration.npy"
        np.save(tokens, np.load(self.tokens)["calibration"])
        as_gguf = row.tool == "q3edge-gguf"
        flags = [flag.format(calibration=tokens) for flag in (Q3EDGE_GGUF if as_gguf else Q3EDGE)[row.variant]]
        program, quantized, target = [sys.executable, "-m", "q3edge"], row.out / "quantized", row.out / "exported"
        commands = [
            [*program, "quantize", str(self.checkpoint), "-o", str(quantized), *flags],
            [*program, "export", str(quantized), "-o", str(target), *(("--to", "gguf") if as_gguf else ())],
        ]
        run = measure(commands, row.out / "log.txt")
        metrics = json.loads((quantized / "q3edge.json").read_text())["metrics"]
        made = target / GGUF_FILE if as_gguf else target / _ONNX_FOLDER
        written = sum(path.stat().st_size for path in (made.iterdir() if made.is_dir() else [made]))
        if as_gguf:
            made.replace(row.out / GGUF_FILE)
        shutil.rmtree(target)
        result = {
            "tool": row.tool, "version": VERSION, "variant": row.variant,
            "bytes_as_written": written, "bytes_on_disk": written, "weights": metrics["weights"],
            "seconds": round(run.wall, 1), "cpu_seconds": round(run.cpu, 1), "peak_rss_mb": round(run.peak_mb),
            "embedding": "8-bit", "note": "quantize and export",
        }  # fmt: skip
        (row.out / _RESULT).write_text(json.dumps(result))


def judged(benchmark: Benchmark, rows: Sequence[Row], wanted: Sequence[Row]) -> dict[Row, dict[str, Comparison]]:
    """Row -> its comparisons: the wanted ones that have a result, and all that were judged before on these tokens."""
    court = Judge(benchmark.checkpoint, benchmark.tokens)
    tokens = hashlib.sha256(benchmark.tokens.read_bytes()).hexdigest()
    missing = [row for row in wanted if row.result and _load(row, tokens) is None]
    for start in range(0, len(missing), _JUDGED_AT_ONCE):
        by_folder = {row.weights: row for row in missing[start : start + _JUDGED_AT_ONCE]}
        for folder, windows in court.metrics(list(by_folder)):
            _save(by_folder[folder], tokens, windows)
    stored = {row: _load(row, tokens) for row in rows if row.result}
    return {row: court.summary(windows) for row, windows in stored.items() if windows}


def table(results: Mapping[Row, Mapping[str, Comparison]], failed: Sequence[Row]) -> str:
    """Markdown, smallest first; what failed comes last with the reason."""
    columns = [
        "tool", "variant", "MB on disk", "MB as written", "bits per weight", "mean KL [95 % CI]", "top-1",
        "made in s", "CPU s", "peak MB",
    ]  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    found = sorted(
        ((row, result) for row in results if (result := row.result)),
        key=lambda item: (item[1]["bytes_on_disk"], item[0].tool, item[0].variant),
    )
    for row, result in found:
        comparison, cpu = results[row]["all"], result.get("cpu_seconds")
        size = result["bytes_on_disk"]
        variant = row.variant + (", embedding 8-bit" if "by this benchmark" in result["embedding"] else "")
        cells = [
            f"{row.tool} {result['version']}", variant,
            _megabytes(size), _megabytes(result["bytes_as_written"]), f"{8 * size / result['weights']:.2f}",
            interval(comparison.mean_kl), f"{comparison.top1_agreement.value:.3f}",
            f"{result['seconds']:.0f}", f"{cpu:.0f}" if cpu else "not measured", f"{result['peak_rss_mb']}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    rest = " |" * (len(columns) - 3)
    lines += [f"| {row.tool} | {row.variant} | {row.failure} |{rest}" for row in failed]
    return "\n".join([*lines, "", *_machines([row for row, _ in found])])


def _machines(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each machine that rows were made on."""
    names: dict[str, list[str]] = {}
    for row in rows:
        of = (row.result or {}).get("machine")
        names.setdefault("{cpu}: {flags}".format_map(of) if of else "a machine not recorded", []).append(row.out.name)
    yield from (f"- made on {machine}: {', '.join(made)}" for machine, made in names.items())


def main() -> None:
    """Run what is missing, judge what is new, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="results, and environments unless --envs")
    parser.add_argument("--envs", type=Path, help="one environment per peer, by name")
    parser.add_argument("--make-envs", action="store_true", help="make the environments that are missing")
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="make and judge these, e.g. 'nncf-*'")
    parser.add_argument("--slow", action="store_true", help="also what takes hours on two cores")
    parser.add_argument("--again", action="store_true", help="make the chosen rows anew")
    parser.add_argument("--judge-only", action="store_true", help="make nothing")
    options = parser.parse_args()
    work = options.work
    benchmark = Benchmark(options.checkpoint, options.tokens, work, options.envs or work / "envs", options.slow)
    rows = list(benchmark.rows())
    names = chosen([row.out.name for row in rows], options.only)
    wanted = [row for row in rows if row.out.name in names]
    if options.make_envs:
        for peer in dict.fromkeys(row.tool for row in wanted if row.tool != "q3edge"):
            environments.make(peer, benchmark.envs)
    for row in wanted if not options.judge_only else ():
        if options.again or row.result is None:
            _say(f"{row.tool} {row.variant}")
            benchmark.make(row)
    failed = [row for row in rows if row.result is None and (row in wanted or row.out.exists())]
    text = table(judged(benchmark, rows, wanted), failed)
    (work / "table.md").write_text(text + "\n")
    print(text)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.{1 if size >= 1e7 else 3}f}"


def _fingerprint(row: Row, tokens: str) -> str:
    files = sorted([*row.weights.glob("*.safetensors"), *row.weights.glob(GGUF_FILE)])
    return repr([tokens, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)])


def _load(row: Row, tokens: str) -> list[TokenMetrics] | None:
    """What `_save` left; None: nothing, or of other weights or tokens."""
    path = row.out / "judged.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        if str(stored["of"]) != _fingerprint(row, tokens):
            return None
        ends = np.cumsum(stored["lengths"])[:-1]
        columns = [np.split(stored[field.name], ends) for field in fields(TokenMetrics)]
    return [TokenMetrics(*parts) for parts in zip(*columns)]


def _save(row: Row, tokens: str, windows: Sequence[TokenMetrics]) -> None:
    whole = TokenMetrics.concatenate(windows)
    np.savez(
        row.out / "judged.npz",
        of=_fingerprint(row, tokens),
        lengths=[len(window) for window in windows],
        **{field.name: getattr(whole, field.name) for field in fields(TokenMetrics)},
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
