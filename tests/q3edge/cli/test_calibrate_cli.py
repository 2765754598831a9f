"""Calibration as people run it: real processes on the embedded model, killed, repeated, given bad text."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest

MODEL = Path(str(files("q3edge.data") / "demo_model"))
SMALL = ["--samples", "16", "--seq-len", "64"]
OWN_TEXT = ["--calibration", str(MODEL / "calibration.jsonl"), *SMALL]


def command(output: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "q3edge", "quantize", str(MODEL), "-o", str(output), *flags]


def q3edge(output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(output, *flags), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_killed_and_repeated_it_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = q3edge(tmp_path / "whole", *OWN_TEXT, "--json")
    assert whole.returncode == 0, whole.stderr
    metrics = json.loads(whole.stdout)["metrics"]
    assert len(metrics["calibration"]["digest"]) == 64
    assert len(metrics["tensors"]) == 4 * 7 + 1
    reports = metrics["tensors"].values()
    assert sum(report["loss"] for report in reports) < 0.8 * sum(report["rounding_loss"] for report in reports)

    output, work = tmp_path / "killed", tmp_path / ".killed.work"
    for layers, number in ((1, signal.SIGKILL), (3, signal.SIGINT)):
        process = subprocess.Popen(command(output, *OWN_TEXT), stderr=subprocess.PIPE, text=True)
        while len(list(work.glob("layer-*.bin"))) < layers and process.poll() is None:
            time.sleep(0.02)
        assert process.stderr is not None
        process.stderr.readline()  # that it starts
        assert process.stderr.readline().startswith("calibration on 16 rows")  # it has begun
        process.send_signal(number)
        _, errors = process.communicate()
        assert not output.exists()
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert q3edge(output, *OWN_TEXT).returncode == 0
    for name in ("model.safetensors", "config.json", "q3edge.json"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not work.exists()


@pytest.mark.slow
def test_reconstruction_says_what_it_bought(tmp_path: Path) -> None:
    result = q3edge(tmp_path / "out", *OWN_TEXT, "--reconstruct", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[1].startswith("calibration with reconstruction on 16 rows of 64 tokens: about ")
    found = json.loads(result.stdout)["metrics"]["reconstruction"]
    assert list(found) == ["0", "1", "2", "3"]
    left = [layer["loss_after"] / layer["loss_before"] for layer in found.values()]
    moved = [layer["moved_codes"] for layer in found.values()]
    assert max(left) <= 1
    assert min(left) < 0.99
    said = f"reconstruction: {sum(moved) / 4:.1%} of the codes moved, layers err {1 - sum(left) / 4:.1%} less"
    assert said in result.stderr


@pytest.mark.slow
def test_work_of_another_command_is_neither_used_nor_lost(tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / ".out.work"
    process = subprocess.Popen(command(output, *OWN_TEXT), stderr=subprocess.DEVNULL)
    while not list(work.glob("layer-*.bin")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)  # or it might be done before the second has started
    second = q3edge(output, *OWN_TEXT)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert second.returncode == 4
    assert f"process {process.pid} is working on this output" in second.stderr
    before = {path.name: path.read_bytes() for path in work.glob("layer-*.bin")}
    for flags, changed in ((["--group-size", "64"], "recipe"), (["--reconstruct"], "reconstruct")):
        other = q3edge(output, *OWN_TEXT, *flags)
        assert other.returncode == 2
        assert f"{changed} changed" in other.stderr
    assert {path.name: path.read_bytes() for path in work.glob("layer-*.bin")} == before
    assert q3edge(output, *OWN_TEXT, "--group-size", "64", "--restart").returncode == 0


@pytest.mark.slow
def test_what_it_will_take_is_said_beside_the_data(tmp_path: Path) -> None:
    result = q3edge(tmp_path / "out", *OWN_TEXT, "--json")
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"output", "metrics"}
    expected = r"calibration on 16 rows of 64 tokens: about \d+ (s|min), \d+ MB of memory, \d+ MB of disk"
    assert re.fullmatch(expected, result.stderr.splitlines()[1]), result.stderr


def test_rounding_takes_no_text(tmp_path: Path) -> None:
    result = q3edge(tmp_path / "out", "--method", "rtn", *OWN_TEXT)
    assert result.returncode == 2
    assert "--method rtn uses no text" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [["--reconstruct"], ["--tune"], ["--method", "gptq"], OWN_TEXT], ids=lambda flags: flags[0]
)
def test_a_float_build_takes_no_calibration(flags: list[str], tmp_path: Path) -> None:
    build = [sys.executable, "-m", "q3edge", "build", str(MODEL), "-o", str(tmp_path / "out"), "--format", "float"]
    result = subprocess.run([*build, *flags], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--format float is not quantized" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"good line\n\xff\xfe bad\n", "line 2"), (b"too short", "calibration data")],
    ids=["empty", "not UTF-8", "too short"],
)
def test_bad_input_24_calibration_text(content: bytes, message: str, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_bytes(content)
    result = q3edge(tmp_path / "out", "--calibration", str(text))
    assert result.returncode == 3
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 2  # that it starts, and what is wrong
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target-size", "12x"], "--target-size '12x': expected a size with its unit, such as 350MB or 1.2GB"),
        (["--target-size", "1MB", "--target-bpw", "4"], "--target-size and --target-bpw say the same: give one"),
        (["--target-size", "2"], "--target-size '2': expected a size with its unit, such as 350MB or 1.2GB"),
        (["--target-bpw", "4", "--group-size", "32"], "a target chooses the formats itself: leave out --format"),
        (["--target-bpw", "4", "--method", "rtn"], "--method rtn uses no text, trains nothing and has no budget"),
        (["--target-bpw", "1", *SMALL], "the smallest that this model can be is"),
    ],
)
def test_a_target_that_cannot_be_met_is_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    result = q3edge(tmp_path / "out", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_target_is_kept_to_and_says_what_it_chose(tmp_path: Path) -> None:
    result = q3edge(tmp_path / "out", *OWN_TEXT, "--target-size", "1.7MB", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["metrics"]["allocation"]
    assert found["budget_bytes"] == 1_700_000
    assert found["plans"][found["plan"]]["bytes"] <= 1_700_000
    assert "kept: " in result.stderr
    assert (tmp_path / "out" / "recipe.toml").exists()
