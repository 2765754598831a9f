"""A device that only runs a model has no torch: importing and running the runtime must not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.runtime import write_artifact

_PROGRAM = """
import sys
FORBIDDEN = ("torch", "onnx", "onnx_ir", "transformers", "jinja2", "scipy")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
from pathlib import Path
import q3edge.runtime
for module in pkgutil.walk_packages(q3edge.runtime.__path__, "q3edge.runtime."):
    importlib.import_module(module.name)
from q3edge.runtime.model import Model
with Model.open(Path(sys.argv[1]), threads=1) as model:
    done = model.chat([{"role": "user", "content": "the cat"}], model.settings(max_new_tokens=3, seed=0))
assert len(done.token_ids) == 3 or done.stats.finish_reason == "stop"
assert not set(FORBIDDEN) & set(sys.modules), set(FORBIDDEN) & set(sys.modules)
print("ran")
"""


def test_runs_with_torch_blocked(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact")
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
