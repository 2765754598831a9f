"""The commands as a user runs them: real processes, exact exit codes, data on stdout, the rest on stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

from q3edge.formats import FORMATS
from q3edge.machine.extras import install_line

DEMO_MODEL = Path(str(files("q3edge.data") / "demo_model"))


# Nearly uniform sampling: an answer of hundreds of tokens, whatever the model was taught.
WILD = ("--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", "1", "--max-new-tokens", "900")


def q3edge(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m q3edge` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "q3edge", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, one line on stderr with these words in it, nothing on stdout, no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "q"
    result = q3edge("quantize", DEMO_MODEL, "-o", folder)
    assert result.returncode == 0, result.stderr
    assert "bits each" in result.stderr
    return folder


@pytest.fixture(scope="module")
def artifact(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "a"
    result = q3edge("export", quantized, "-o", folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_version_and_help() -> None:
    assert q3edge("--version").stdout.startswith("q3edge, version 0.")
    for command in ("demo", "inspect", "quantize", "export", "validate", "build", "run"):
        result = q3edge(command, "--help")
        assert result.returncode == 0
        assert f"q3edge {command}" in result.stdout


def test_inspect_reports_sizes_that_export_then_writes(quantized: Path, artifact: Path) -> None:
    result = q3edge("inspect", DEMO_MODEL, "--json")
    assert result.returncode == 0
    inspection = json.loads(result.stdout)
    predicted = {entry["format"]: entry for entry in inspection["predictions"]}
    assert set(predicted) == {"float", *FORMATS}
    manifest = json.loads((quantized / "q3edge.json").read_text())
    assert inspection["weights"] == manifest["metrics"]["weights"]
    written = sum(path.stat().st_size for path in (artifact / "onnx").iterdir())
    assert abs(written - predicted["int4"]["disk_bytes"]) < 0.05 * written
    assert "tokens/s" in q3edge("inspect", DEMO_MODEL).stdout


def test_export_twice_gives_the_same_bytes(quantized: Path, artifact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert q3edge("export", quantized, "-o", again).returncode == 0
    assert folder_bytes(again) == folder_bytes(artifact)
    assert q3edge("export", quantized, "-o", again, "--overwrite").returncode == 0
    assert folder_bytes(again) == folder_bytes(artifact)


def test_quantize_twice_gives_the_same_bytes(quantized: Path, tmp_path: Path) -> None:
    assert q3edge("quantize", DEMO_MODEL, "-o", tmp_path / "q", OMP_NUM_THREADS="1").returncode == 0
    assert folder_bytes(tmp_path / "q") == folder_bytes(quantized)


def test_run_answers_on_stdout_and_counts_on_stderr(artifact: Path) -> None:
    arguments = ("run", artifact, "What is 3 + 4?", "--temperature", 0, "--no-think", "--max-new-tokens", 20)
    result = q3edge(*arguments)
    assert result.returncode == 0, result.stderr
    assert "tokens/s, ended by" in result.stderr
    answer = json.loads(q3edge(*arguments, "--json").stdout)
    assert result.stdout.strip() == answer["answer"].strip()
    assert len(answer["token_ids"]) == answer["stats"]["new_tokens"]


def test_run_drafts_tokens_unless_told_not_to(artifact: Path) -> None:
    prompt = "one two three four five six " * 8
    arguments = ("run", artifact, prompt, "--raw", "--temperature", 0, "--max-new-tokens", 24, "--json")
    drafting, plain = (json.loads(q3edge(*arguments, *flag).stdout)["stats"] for flag in ((), ("--no-speculate",)))
    assert drafting["drafted_tokens"] > 0
    assert plain["drafted_tokens"] == 0
    drafted = q3edge(*arguments[:-1], "--draft", artifact)
    assert drafted.returncode == 0, drafted.stderr
    assert "draft tokens accepted, ended by" in drafted.stderr
    refused(q3edge(*arguments, "--draft", artifact, "--no-speculate"), 2, "--draft", "--no-speculate", "give one")


def test_onnxruntime_genai_runs_the_folder_and_says_the_same(artifact: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    prompt = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    arguments = ("run", artifact, prompt, "--raw", "--temperature", 0, "--max-new-tokens", 24, "--json")
    expected = json.loads(q3edge(*arguments, "--no-speculate").stdout)["token_ids"]
    model = genai.Model(str(artifact))
    prompt_ids = genai.Tokenizer(model).encode(prompt)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(prompt_ids) + len(expected))
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompt_ids)
    while not generator.is_done():
        generator.generate_next_token()
    assert [int(token) for token in generator.get_sequence(0)[len(prompt_ids) :]] == expected


def test_run_repeats_itself_with_a_seed(artifact: Path) -> None:
    arguments = ("run", artifact, "Hello", "--temperature", 1.5, "--seed", 7, "--max-new-tokens", 12, "--json")
    assert json.loads(q3edge(*arguments).stdout)["token_ids"] == json.loads(q3edge(*arguments).stdout)["token_ids"]


def test_run_refuses_a_prompt_longer_than_the_context(artifact: Path) -> None:
    context = json.loads((artifact / "config.json").read_text())["max_position_embeddings"]
    refused(q3edge("run", artifact, "1 " * context, "--raw"), 2, "tokens", str(context))


def test_run_survives_a_closed_stdout(artifact: Path) -> None:
    command = f'{sys.executable} -m q3edge run {artifact} Hello --raw --max-new-tokens 200; echo "code $?" >&2'
    result = subprocess.run(["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=False)
    assert "code 0" in result.stderr
    assert "Traceback" not in result.stderr


def test_run_finds_a_flipped_byte(artifact: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(artifact, tmp_path / "damaged")
    data = damaged / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    refused(q3edge("run", damaged, "Hello"), 3, "model.onnx_data", "sha256 differs")


def test_ctrl_c_within_exec_has_the_code_130(tmp_path: Path) -> None:
    """As in the import of a module of dataclasses; CPython would end the process by the signal after all."""
    program = """
import os, signal, sys
from q3edge.cli import main
class Interrupted:
    def __enter__(self): exec("os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**9): pass")
    def __exit__(self, *_): pass
main.report_to = lambda _listener: Interrupted()
sys.exit(main.main(["list"]))
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    found = subprocess.run(
        [sys.executable, "-m", "program"], capture_output=True, text=True, check=False, env=environment
    )
    assert (found.returncode, found.stderr) == (130, "interrupted\n")


def test_interrupting_ends_cleanly_and_leaves_nothing(tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        output = tmp_path / "out"
        process = subprocess.Popen(
            [sys.executable, "-m", "q3edge", "build", DEMO_MODEL, "-o", output],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while not list(tmp_path.iterdir()):  # until the staged folder appears
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        assert list(tmp_path.iterdir()) == []


def test_interrupting_an_answer_keeps_what_was_said(artifact: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "q3edge", "run", artifact, "1", "--raw", *WILD],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert first
    assert process.returncode == 130
    assert errors.decode().strip() == "interrupted"


def test_build_writes_a_verified_artifact_with_its_numbers(tmp_path: Path) -> None:
    result = q3edge("build", DEMO_MODEL, "-o", tmp_path / "b", "--format", "int8", "--max-tokens", 256, "--json")
    assert result.returncode == 0, result.stderr
    validation = json.loads(result.stdout)["metrics"]["validation"]
    assert 0 <= validation["overall"]["mean_kl"]["value"] < 0.1
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"{validation['overall']['mean_kl']['value']:.4g}" in card
    names = set(folder_bytes(tmp_path / "b"))
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "config.json", "genai_config.json", "q3edge.json"} <= names
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_build_that_misses_its_limit_keeps_nothing(tmp_path: Path) -> None:
    result = q3edge("build", DEMO_MODEL, "-o", tmp_path / "b", "--max-kl", 0, "--max-tokens", 64)
    refused(result, 5, "mean KL", "at most 0 asked for")
    assert list(tmp_path.iterdir()) == []


def test_validate_tells_pass_from_fail_and_changes_nothing(artifact: Path) -> None:
    before = folder_bytes(artifact)
    arguments = ("validate", artifact, "--reference", DEMO_MODEL, "--max-tokens", 128)
    passed = q3edge(*arguments, "--json")
    assert passed.returncode == 0, passed.stderr
    report = json.loads(passed.stdout)
    checks = {check["name"]: check["status"] for check in report["checks"]}
    assert checks["prefill_equals_decode_exact"] == checks["prefill_equals_decode_rounded"] == "pass"
    failed = q3edge(*arguments, "--max-kl", 1e-9)
    assert failed.returncode == 5
    assert failed.stdout.startswith(report["verdict"].replace("; ", ";\n") + "\n\n")  # U13: words before figures
    assert "mean KL on the text" in failed.stdout
    assert folder_bytes(artifact) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("quantize", DEMO_MODEL, "-o", DEMO_MODEL), 2, ("overlaps the input",)),
        (("quantize", DEMO_MODEL, "-o", "OUT", "--group-size", 48), 2, ("group_size = 48",)),
        (("quantize", DEMO_MODEL, "-o", "OUT", "--format", "int5"), 2, ("int5",)),
        (("quantize", DEMO_MODEL, "-o", "OUT", "--recipe", "none.toml"), 3, ("none.toml", "No such file")),
        (("quantize", DEMO_MODEL, "-o", "OUT", "--recipe", "none.toml", "--format", "int4"), 2, ("--recipe",)),
        (("quantize", "./no/such/folder", "-o", "OUT"), 3, ("no/such/folder", "not found")),
        (("export", DEMO_MODEL, "-o", "OUT"), 2, ("float checkpoint", "--format float")),
        (("run", "./no-such-folder", "Hello"), 3, ("no-such-folder",)),
        (("validate", "./no-such-folder", "--reference", DEMO_MODEL), 3, ("no-such-folder",)),
        (("build", DEMO_MODEL, "-o", "OUT", "--format", "float", "--symmetric"), 2, ("float is not quantized",)),
        (("build", DEMO_MODEL), 2, ("-o",)),
    ],
)
def test_mistakes_get_one_line_and_a_code(
    arguments: tuple[object, ...], code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    result = q3edge(*(tmp_path / "out" if argument == "OUT" else argument for argument in arguments))
    refused(result, code, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_stays_byte_identical(quantized: Path) -> None:
    before = folder_bytes(quantized)
    refused(q3edge("quantize", DEMO_MODEL, "-o", quantized), 2, "exists already", "--overwrite")
    assert folder_bytes(quantized) == before


def test_group_size_that_does_not_divide_lists_the_valid_ones(tmp_path: Path) -> None:
    model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    heads = config["num_attention_heads"] * config["head_dim"]
    valid = [size for size in (16, 32, 64, 128, 256) if heads % size == 0]
    assert 256 not in valid
    result = q3edge("quantize", model, "-o", tmp_path / "out", "--group-size", 256)
    refused(result, 2, "o_proj", f"does not divide the width {heads}", ", ".join(map(str, valid)))


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from q3edge.cli.main import main; "
        f"sys.exit(main(['quantize', {str(DEMO_MODEL)!r}, '-o', 'never-written']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    refused(result, 4, install_line("quantize"))


def test_debug_adds_the_traceback() -> None:
    result = q3edge("run", "./no-such-folder", "Hello", "--debug")
    assert result.returncode == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("command", [("quantize",), ("build", "--max-tokens", 64)])
def test_a_full_disk_leaves_nothing(command: tuple[object, ...], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "from q3edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    assert resource is not None
    arguments = [*map(str, command), str(DEMO_MODEL), "-o", str(tmp_path / "out")]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    refused(result, 4, "cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(q3edge("quantize", DEMO_MODEL, "-o", tmp_path / "file" / "out"), 2, "not a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # half a minute on two free cores
def test_demo_shows_the_trade_off(tmp_path: Path) -> None:
    result = q3edge("demo", "-o", tmp_path / "demo", "--json")
    assert result.returncode == 0, result.stderr
    demo = json.loads(result.stdout)
    rows = {row["format"]: row for row in demo["rows"]}
    assert rows["float"]["accuracy"]["value"] > 0.9
    kl = [rows[name]["text_kl"]["value"] for name in ("float", "int8", "int4", "int2")]
    assert kl[0] < 1e-6 < kl[1] < kl[2] < kl[3]
    assert rows["int2"]["accuracy"]["high"] < rows["float"]["accuracy"]["low"]
    assert rows["float"]["model_bytes"] > 3 * rows["int8"]["model_bytes"]
    assert rows["int8"]["model_bytes"] > rows["int4"]["model_bytes"]
    assert demo["seconds"] > 0
    assert demo["verdict"].startswith("int4 is the one to take: 15.4 % of float's size, and as often right")
    assert [answer["given"]["float"] for answer in demo["answers"]] == [a["right"] for a in demo["answers"]]


def test_a_full_disk_behind_stdout_is_a_resource() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "q3edge", "inspect", str(DEMO_MODEL)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 4
    assert done.stderr == "q3edge: no space left on the disk; make room and run it again\n"
