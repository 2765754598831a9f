"""Does q3edge read what other tools write as they read it themselves? One table: format, codes kept, difference.

    python benchmarks/interop/formats.py [--work build/formats] [--envs build/peers] [--only GLOB ...] [--again]

Lets each tool, in an environment of its own (benchmarks/peers/PEER.txt), quantize the embedded model and dequantize it
again, opens the checkpoint with q3edge, and prints how many matrices keep their codes and by how much values differ,
rounded to the type that the tool computes in: the largest difference in a matrix, as a part of its largest weight, of
the values that are read and of the codes that are kept exactly. What a tool printed is in WORK/CASE.txt, the table in
WORK/table.md.
Exit code 1: a case failed, or differs by more than 5e-7.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from q3edge.checkpoint import open_float_model

sys.path.append(str(Path(__file__).resolve().parents[1]))
import environments
from choice import chosen
from machine import machine_line

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 900
_EXACT = 5e-7  # of sums and products in float32, in another order


@dataclass(frozen=True)
class Case:
    """One checkpoint: its tool, the environment and script of it, and the script's case."""

    tool: str
    format: str
    peer: str
    script: str
    case: str

    @property
    def name(self) -> str:
        """Name for --only and files, such as "gptqmodel-sym"."""
        return f"{self.script}-{self.case}"


CASES = (
    Case("GPTQModel", "GPTQ 4 bits, symmetric", "gptqmodel", "gptqmodel", "sym"),
    Case("GPTQModel", "GPTQ 4 bits, asymmetric", "gptqmodel", "gptqmodel", "asym"),
    Case("GPTQModel", "GPTQ 4 bits, asymmetric, gptq_v2", "gptqmodel", "gptqmodel", "v2"),
    Case("GPTQModel", "GPTQ 4 bits, desc_act", "gptqmodel", "gptqmodel", "desc"),
    Case("GPTQModel", "GPTQ 8 bits, a scale for a row", "gptqmodel", "gptqmodel", "8bits"),
    Case("GPTQModel", "AWQ, gemm", "gptqmodel", "gptqmodel", "awq"),
    Case("AutoRound", "auto_round, symmetric", "auto-round", "auto_round", "sym"),
    Case("AutoRound", "auto_round, asymmetric, 4 and 8 bits", "auto-round", "auto_round", "asym"),
    Case("AutoRound", "auto_round:auto_gptq, asymmetric, 4 and 8 bits", "auto-round", "auto_round", "gptq"),
    Case("AutoRound", "auto_round:gptqmodel, asymmetric", "auto-round", "auto_round", "gptqmodel"),
    Case("llm-compressor", "W4A16, groups of 128", "llm-compressor", "llmcompressor", "W4A16"),
    Case("llm-compressor", "W4A16, asymmetric", "llm-compressor", "llmcompressor", "asym"),
    Case("llm-compressor", "W4A16, GPTQ, actorder weight", "llm-compressor", "llmcompressor", "actorder"),
    Case("llm-compressor", "W8A16", "llm-compressor", "llmcompressor", "W8A16"),
    Case("llm-compressor", "W8A8", "llm-compressor", "llmcompressor", "W8A8"),
    Case("llm-compressor", "FP8, a scale for a row", "llm-compressor", "llmcompressor", "FP8_DYNAMIC"),
    Case("llm-compressor", "FP8, blocks", "llm-compressor", "llmcompressor", "blocks"),
    Case("bitsandbytes", "nf4", "bitsandbytes", "bitsandbytes", "nf4"),
    Case("bitsandbytes", "nf4, double quantization", "bitsandbytes", "bitsandbytes", "double"),
    Case("bitsandbytes", "fp4", "bitsandbytes", "bitsandbytes", "fp4"),
    Case("bitsandbytes", "int8", "bitsandbytes", "bitsandbytes", "int8"),
    *(Case("mlx-lm", f"MLX {bits} bits, groups of 32", "mlx", "mlx", f"{bits}bits") for bits in (3, 4, 6, 8)),
    Case("transformers", "FP8, blocks", "bitsandbytes", "bitsandbytes", "FP8"),
    *(
        Case("llama.cpp", f"GGUF, {kind}", "llama-cpp", "llama_cpp", kind)
        for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
    ),
)


@dataclass(frozen=True)
class Found:
    """What q3edge reads: matrices, those whose codes are kept, the largest difference; the tool's type and version."""

    matrices: int
    kept: int
    difference: float
    dtype: str
    version: str


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "formats")
    parser.add_argument("--envs", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--only", nargs="+", metavar="GLOB")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    names = chosen([case.name for case in CASES], arguments.only)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for case in (case for case in CASES if case.name in names):
        print(case.name, file=sys.stderr, flush=True)
        if failure := _write(case, arguments.work, arguments.envs, again=arguments.again):
            rows.append(f"| {case.tool} | {case.format} | | | {failure} |")
            failed = True
            continue
        found = _compare(arguments.work / case.name)
        failed |= not found.difference <= _EXACT
        tool = f"{case.tool} {found.version}" if case.tool != "transformers" else case.tool
        kept = f"{found.kept} of {found.matrices}"
        rows.append(f"| {tool} | {case.format} | {kept} | {found.dtype} | {_shown(found.difference)} |")
    head = "| tool | format | codes kept | its type | largest difference |\n|---|---|---|---|---|\n"
    text = f"{machine_line()}\n\n{head}" + "\n".join(rows) + "\n"
    (arguments.work / "table.md").write_text(text)
    print(text)
    return int(failed)


def _write(case: Case, work: Path, envs: Path, *, again: bool) -> str:
    """Let the tool write its checkpoint unless it is there; returns what failed."""
    out, log = work / case.name, work / f"{case.name}.txt"
    if (out / "result.json").exists() and not again:
        return ""
    environments.make(case.peer, envs)
    try:
        python = environments.python_of(case.peer, envs, log)
    except SystemExit:
        return environments.last_line(log)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    script = Path(__file__).resolve().parent / "writers" / f"write_{case.script}.py"
    source = ROOT / "q3edge" / "data" / "demo_model"
    with log.open("w") as printed:
        try:
            code = subprocess.run(
                [python, str(script), case.case, str(source), str(out.resolve())],
                stdout=printed, stderr=printed, timeout=_SECONDS, check=False, cwd=out,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not done within {_SECONDS} s"
    return environments.last_line(log) if code else ""


def _compare(out: Path) -> Found:
    tools = load_file(out / "values.safetensors")
    kept, worst = 0, 0.0
    with open_float_model(_folder(out / "model")) as model:
        for name, values in tools.items():
            matrix = model.matrices[name]
            found = [model.read(name)]
            if matrix.scheme is not None:
                kept += 1
                if matrix.approximation is None:  # else the codes are kept but for what it says
                    found.append(matrix.codes(slice(0, len(values))).dequantize())
            for ours in found:
                difference = (torch.from_numpy(ours).to(values.dtype).float() - values.float()).abs().max()
                worst = max(worst, float(difference / values.float().abs().max()))
    (dtype,) = {str(values.dtype).removeprefix("torch.") for values in tools.values()}
    return Found(len(tools), kept, worst, dtype, json.loads((out / "result.json").read_text())["version"])


def _folder(written: Path) -> Path:
    """Folder of the model: tools may make one inside the folder that they are given."""
    return next(
        (path.parent for path in sorted(written.rglob("config.json"))), written
    )  # a GGUF file has none beside it


def _shown(difference: float) -> str:
    return "0" if difference == 0 else f"{difference:.1e}"


if __name__ == "__main__":
    sys.exit(main())
