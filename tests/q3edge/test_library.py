"""`import q3edge`: nothing heavy at import, arguments of every kind, and one clear refusal of all others."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import q3edge
from q3edge import progress
from q3edge.artifact import DATA_FILE, MANIFEST_FILE, MODEL_FILE
from q3edge.evaluation.sandbox.sandbox import Sandbox
from q3edge.machine.extras import install_line
from tests.helpers.runtime import write_artifact

MODEL = Path(str(files("q3edge.data") / "demo_model"))
CALIBRATION = MODEL / "calibration.jsonl"
LOOSE: Any = q3edge  # for calls that a type checker refuses
HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "click", "rich", "huggingface_hub", "tokenizers", "jinja2"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running `code`."""
    command = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_q3edge_imports_nothing_heavy() -> None:
    code = "import q3edge; q3edge.build; q3edge.load; q3edge.evaluate; q3edge.UsageError; dir(q3edge)"
    assert not modules_after(code) & HEAVY


def test_a_loaded_model_needs_no_torch_and_no_onnx(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "model")
    messages = [{"role": "user", "content": "x"}]
    found = modules_after(f"import q3edge\nwith q3edge.load({str(folder)!r}) as model: model.encode_chat({messages})")
    assert "onnxruntime" in found
    assert not found & {"torch", "onnx", "onnx_ir", "click", "rich"}


@pytest.mark.parametrize("extension", ["parquet", "pdf"])
def test_u14_a_missing_library_is_told_before_the_model_is_opened(
    extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("pyarrow", "pyarrow.parquet", "pypdf"):
        monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / f"a.{extension}").write_bytes(b"x")
    for call in (
        lambda **texts: q3edge.quantize("no/model", tmp_path / "q", **texts),
        lambda **texts: q3edge.build("no/model", tmp_path / "b", **texts),
        lambda **texts: q3edge.sweep("no/model", tmp_path / "s", "int4", **texts),
    ):
        with pytest.raises(q3edge.ResourceError, match=rf"a\.{extension}: reading \.{extension} needs py.*pip install"):
            call(calibration=tmp_path / "texts")
        with pytest.raises(q3edge.InputError, match=r"b\.txt: cannot be read \(not found\)"):
            call(calibration=tmp_path / "b.txt")


def test_u14_a_missing_sandbox_is_told_before_the_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Sandbox:
        raise q3edge.ResourceError("a sandbox for programs cannot be started")

    monkeypatch.setattr(Sandbox, "open", refuse)
    with pytest.raises(q3edge.ResourceError, match="a sandbox for programs"):
        q3edge.evaluate("no/model", "no/reference", generate=4, allow_code=True)


def test_the_names_for_type_checkers_are_those_at_run_time() -> None:
    source = Path(q3edge.__file__ or "").read_text(encoding="utf-8")
    (block,) = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*imported, "__version__"} == set(q3edge.__all__) == set(dir(q3edge))
    for name, (module, original) in imported.items():
        assert getattr(q3edge, name) is getattr(sys.modules[str(module)], original)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = q3edge.quantise  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LOOSE.load(3), "path_or_id: expected a str or Path, not int"),
        (lambda: LOOSE.inspect(None), "model: expected a str or Path, not NoneType"),
        (lambda: LOOSE.build(MODEL, b"out"), "output: expected a str or Path, not bytes"),
        (lambda: LOOSE.build(MODEL, "out", 4), "recipe: expected a Recipe, the name of a format, or the path"),
        (
            lambda: LOOSE.build(MODEL, "out", calibration=[CALIBRATION, 1]),
            r"calibration\[1\]: expected a str or Path",
        ),
        (lambda: LOOSE.quantize(MODEL, "out", samples=True), r"samples: expected a whole number \(int\), not bool"),
        (lambda: LOOSE.quantize(MODEL, "out", samples=None), "samples: expected a whole number .*, not NoneType"),
        (lambda: LOOSE.quantize(MODEL, "out", method=1), "method: expected one of 'keep', 'gptq', 'rtn', not int"),
        (lambda: LOOSE.quantize(MODEL, "out", target_size=1.5), "target_size: expected a str such as '350MB'"),
        (lambda: LOOSE.quantize(MODEL, "out", tune="yes"), "tune: expected True or False, not str"),
        (lambda: LOOSE.validate("out", MODEL, max_kl="1"), r"max_kl: expected a number \(int or float\), not str"),
        (lambda: LOOSE.evaluate("out", MODEL, areas=3), "areas: expected a str, not int"),
        (lambda: LOOSE.export("a", "out", progress=3), "progress: expected True, False or a listener"),
        (
            lambda: LOOSE.export("a", "out", speed=3),
            "export: got an unexpected keyword argument 'speed'; it has source, output, as_float",
        ),
    ],
)
def test_a_wrong_type_is_told_what_to_pass(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: q3edge.quantize(MODEL, "out", samples=1), "samples = 1: expected at least 2"),
        (lambda: q3edge.quantize(MODEL, "out", target_bpw=0.0), "target_bpw = 0.0: expected above 0"),
        (lambda: q3edge.quantize(MODEL, "out", target_bpw=float("nan")), "target_bpw = nan: expected above 0"),
        (lambda: q3edge.quantize(MODEL, "out", target_bpw=float("inf")), "target_bpw = inf: expected .*finite"),
        (
            lambda: q3edge.quantize(MODEL, "out", target_size=10**400),
            r"--target-size 10+\.\.\.: expected a finite size",
        ),
        (lambda: q3edge.quantize(MODEL, "out", target_size="9" * 400 + "MB"), "--target-size 9.* expected a finite"),
        (lambda: q3edge.quantize(MODEL, "out", target_size="1GB"), "the whole float model takes"),
        (lambda: q3edge.quantize(MODEL, "out", target_bpw=10**400), "the whole float model takes"),
        (lambda: q3edge.quantize(MODEL, "out", "int5"), "format 'int5': expected one of int4"),
        (lambda: LOOSE.quantize(MODEL, "out", method="awq"), "method = 'awq': expected one of keep, gptq, rtn"),
        (lambda: q3edge.quantize(MODEL, "out", "r.toml", group_size=32), "--recipe decides the formats"),
        (lambda: q3edge.quantize(MODEL, "out", q3edge.Recipe(()), symmetric=True), "--recipe decides the formats"),
        (
            lambda: q3edge.quantize(MODEL, "out", target_size="12x"),
            "'12x': expected a size with its unit, such as 350MB",
        ),
        (lambda: q3edge.quantize(MODEL, "out", "int4", target_bpw=4), "a target chooses the formats itself"),
        (lambda: q3edge.quantize(MODEL, "out", target_size=9, target_bpw=4), "say the same: give one"),
        (lambda: q3edge.build(MODEL, "out", "float", tune=True), "float is not quantized"),
        (lambda: q3edge.build(MODEL, "out", "float", target_bpw=4), "a target chooses the formats itself"),
        (lambda: q3edge.build(MODEL, "out", threads=2000), "threads = 2000: expected 1 to 1024"),
        (lambda: q3edge.bench("out", depths=[0, -1]), r"depths\[1\] = -1: expected at least 0"),
        (lambda: q3edge.check("out"), "nothing to check"),
        (lambda: q3edge.evaluate("out", MODEL, allow_code=True), "add --generate"),
        (lambda: q3edge.sweep(MODEL, "out"), "nothing to build"),
        # row U19: what would be ignored, or misread, is said before any work
        (lambda: q3edge.quantize(MODEL, "out", target_size="2"), "'2': expected a size with its unit, such as 350MB"),
        (
            lambda: q3edge.quantize(MODEL, "out", target_size=2),
            "a budget of 2 bytes: the smallest .* can be is .* MB",
        ),
        (lambda: q3edge.quantize(MODEL, "out", target_size="10GB"), "the whole float model takes .* within the budget"),
        (lambda: q3edge.build(MODEL, "out", "float", samples=16), "float is not quantized: .*--samples"),
        (lambda: q3edge.build(MODEL, "out", "float", seed=3), "float is not quantized: .*--seed"),
        (lambda: q3edge.quantize(MODEL, "out", method="rtn", samples=16), "--method rtn uses no text"),
        (lambda: q3edge.quantize(MODEL, "out", method="rtn", seed=3), "--method rtn uses no text"),
        (lambda: q3edge.quantize(MODEL, "out", method="rtn", restart=True), "--method rtn uses no text"),
        (lambda: q3edge.sweep(MODEL, "out", "int8", method="rtn", samples=16), "no format of this sweep is calibrated"),
        (
            lambda: q3edge.sweep(MODEL, "out", ["float", "nf4"], calibration=CALIBRATION),
            "no format of this sweep is calibrated",
        ),
        (
            lambda: q3edge.quantize(MODEL, "out", calibration="x.npy", samples=16),
            r"a \.npy file holds the rows themselves",
        ),
        (lambda: q3edge.quantize(MODEL, "out", calibration=["x.npy", "y.txt"]), r"a \.npy file .* give it alone"),
    ],
)
def test_a_value_out_of_range_is_a_usage_error_and_nothing_is_written(
    call: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(q3edge.UsageError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_is_an_object_a_file_or_a_name(tmp_path: Path) -> None:
    recipe = q3edge.Recipe.for_format("int8")
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    forms: list[q3edge.Recipe | str | Path] = [recipe, "int8", tmp_path / "mine.toml", str(tmp_path / "mine.toml")]
    written = [
        q3edge.quantize(str(MODEL), tmp_path / str(number), given, method="rtn").recipe
        for number, given in enumerate(forms)
    ]
    assert written[1:] == written[:-1]
    names = ("model.safetensors", "q3edge.json")
    for name in names:
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(4)}) == 1


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    flags = ["--samples", "16", "--seq-len", "64", "--calibration", str(CALIBRATION), "--kv", "int8"]
    command = [sys.executable, "-m", "q3edge", "quantize", str(MODEL), "-o", str(tmp_path / "a"), *flags]
    subprocess.run(command, check=True, capture_output=True)
    q3edge.quantize(MODEL, tmp_path / "b", samples=16, seq_len=64, calibration=[CALIBRATION], kv_cache="int8")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def task(self, label: str, total: int) -> AbstractContextManager[progress.Advance]:
        self.labels.append(label)
        return nullcontext(lambda _count: None)

    def note(self, text: str) -> None:
        pass


def test_progress_is_silent_shown_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    q3edge.quantize(MODEL, tmp_path / "silent", method="rtn")
    assert capsys.readouterr().err == ""
    q3edge.quantize(MODEL, tmp_path / "shown", method="rtn", progress=True)
    captured = capsys.readouterr()
    start = f"quantize {MODEL}: loading PyTorch, which takes some seconds"
    first, second, *more = captured.err.splitlines()
    assert [first, second] == [start, "write: started"]
    assert all(line.startswith("write: ") for line in more)  # on a slow machine it is told how that goes on
    assert captured.out == ""
    mine, outer = Told(), Told()
    with progress.report_to(outer):
        q3edge.quantize(MODEL, tmp_path / "mine", method="rtn", progress=mine)
        q3edge.quantize(MODEL, tmp_path / "outer", method="rtn")
    assert mine.labels == outer.labels == ["write"]


def test_a_missing_package_is_a_resource_error(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['torch'] = None; import q3edge; q3edge.quantize({str(MODEL)!r}, 'out')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert f"ResourceError: this needs the package torch: {install_line('quantize')}" in done.stderr


def test_a_finished_model_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder, asked = write_artifact(tmp_path / "model"), dict[str, Any]()

    def download(repository: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.update(repository=repository, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=None))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with q3edge.load("somebody/small-model") as model:
        assert model.folder == folder
    assert asked["repository"] == "somebody/small-model"
    assert set(asked["patterns"]) >= {MANIFEST_FILE, MODEL_FILE, DATA_FILE}
    with pytest.raises(q3edge.InputError, match="not found; expected a folder written by"):
        q3edge.load("./no-such-folder")
