"""The runtimes that are tried: what each needs installed, and the script that reads our folders with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "runtimes"
_TRANSFORMERS_JS = ("@huggingface/transformers@4.3.2",)
_ONNXRUNTIME_JS = ("onnxruntime-node@1.30.0", "onnxruntime-web@1.30.0")


class NotInstalledError(Exception):
    """A runtime cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Reader:
    """A runtime. packages: of PyPI, or of npm where the script is for Node; arguments: the script's first ones."""

    name: str
    script: str
    packages: tuple[str, ...]
    environment: str
    arguments: tuple[str, ...] = ()

    @property
    def in_node(self) -> bool:
        """Whether the script is JavaScript."""
        return self.script.endswith(".mjs")

    def install(self, environments: Path, log: Path) -> Path:
        """Make its environment unless it is there; returns its folder. NotInstalledError: why not."""
        folder = environments / self.environment
        self._check_programs()
        made = folder / "made"
        if made.exists() and made.read_text() == "\n".join(self.packages):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.in_node:
            (folder / "package.json").write_text("{}")
            # Without scripts: onnxruntime-node's would fetch GPU libraries, and its CPU ones are in the package.
            commands = [["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *self.packages]]
        else:
            commands = [[sys.executable, "-m", "venv", "."], ["bin/pip", "install", "--quiet", *self.packages]]
        for command in commands:
            with log.open("a") as out:
                if subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False).returncode:
                    raise NotInstalledError(f"{' '.join(command)} failed; see {log.name}")
        made.write_text("\n".join(self.packages))
        return folder

    def command(self, environment: Path, job: Path, out: Path) -> list[str]:
        """Command that does `job` and writes `out`, as runtimes/contract.py says."""
        program = ["node"] if self.in_node else [str(environment / "bin" / "python")]
        last = [str(environment)] if self.in_node else []
        return [*program, str(SCRIPTS / self.script), *self.arguments, str(job), str(out), *last]

    def _check_programs(self) -> None:
        needed = {"node": "nodejs", "npm": "npm"} if self.in_node else {}  # program -> Debian's package
        if self.script == "run_chromium.mjs":
            needed["chromium"] = "chromium"
        for program, package in needed.items():
            if shutil.which(program) is None:
                raise NotInstalledError(f"{program} is not installed (Debian: apt-get install {package})")


def _onnxruntime(version: str) -> Reader:
    name = f"onnxruntime {version}"
    return Reader(name, "run_onnxruntime.py", (f"onnxruntime=={version}",), f"onnxruntime-{version}")


def _javascript(name: str, runtime: str, *, in_chromium: bool = False) -> Reader:
    transformers = runtime == "transformers"
    return Reader(
        name,
        "run_chromium.mjs" if in_chromium else "run_node.mjs",
        _TRANSFORMERS_JS if transformers else _ONNXRUNTIME_JS,
        "transformers-js" if transformers else "onnxruntime-js",
        (runtime,),
    )


READERS = (
    *map(_onnxruntime, ("1.23.2", "1.26.0", "1.29.0", "1.31.1", "1.32.0")),
    Reader("onnxruntime-genai", "run_genai.py", ("onnxruntime-genai==0.18.0",), "onnxruntime-genai"),
    Reader(
        "optimum-onnx", "run_optimum.py",
        ("optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime==1.32.0", "torch>=2.6,<2.14"), "optimum-onnx",
    ),
    Reader("OpenVINO, ONNX frontend", "run_openvino.py", ("openvino==2026.4.1",), "openvino"),
    Reader(
        "OpenVINO, execution provider", "run_onnxruntime.py", ("onnxruntime-openvino==1.24.1",), "openvino-provider"
    ),
    _javascript("onnxruntime-node", "node"),
    _javascript("onnxruntime-web in Node", "web"),
    _javascript("onnxruntime-web in Chromium", "web", in_chromium=True),
    _javascript("transformers.js in Node", "transformers"),
    _javascript("transformers.js in Chromium", "transformers", in_chromium=True),
)  # fmt: skip
