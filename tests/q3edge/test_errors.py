"""Any exception becomes one line and an exit code."""

from __future__ import annotations

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch

from q3edge.errors import GOES_ON, InputError, describe_error, resumable, unreadable

EXBIBYTE = 2**60


def raised_by(allocate: object) -> Exception:
    with pytest.raises(Exception) as caught:
        allocate()  # type: ignore[operator]
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        raised_by(lambda: torch.empty(EXBIBYTE, dtype=torch.uint8)),
        raised_by(lambda: np.empty(EXBIBYTE, np.uint8)),
        MemoryError(),
        RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1152921504606846976"),
        RuntimeError(
            "RUNTIME_EXCEPTION : Exception while pre-packing node '/layers.0/mlp/FusedMatMul': std::bad_alloc"
        ),
        RuntimeError("bad allocation"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory", "model.onnx_data"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        unreadable("model.onnx: not an ONNX model", MemoryError()),
        unreadable("model.safetensors: cannot be read", OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_bad_input_27_too_little_memory_is_a_resource(error: Exception) -> None:
    line, code = describe_error(error)
    assert code == 4
    assert line.startswith("not enough memory")
    assert "\n" not in line
    if "allocate memory" in str(error) and "11529215" in str(error):
        assert "1073741824.0 GiB more were needed" in line
    if "EiB" in str(error):
        assert "1.00 EiB more were needed" in line


def test_q12_other_causes_stay_what_they_are() -> None:
    for cause in (ValueError("bad header"), OSError(errno.EACCES, "Permission denied"), RuntimeError("broken")):
        assert describe_error(unreadable("config.json: cannot be read", cause)) == ("config.json: cannot be read", 3)


def test_q12_the_limit_and_what_is_needed_are_said() -> None:
    code = """
import resource
from q3edge.errors import describe_error, shortage
resource.setrlimit(resource.RLIMIT_AS, (3 << 29, resource.RLIM_INFINITY))
print(describe_error(shortage(MemoryError(), "model.onnx is loaded in about 2.0 GiB")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "memory; model.onnx is loaded in about 2.0 GiB; this process may use 1.5 GiB (ulimit -v)" in done.stdout
    assert done.stdout.endswith(", 4)\n")


def test_r14_too_few_file_handles_are_a_resource() -> None:
    error = OSError(errno.EMFILE, "Too many open files", "model.safetensors")
    for found in (error, unreadable("model.safetensors: cannot be read", error)):
        assert describe_error(found) == ("too many files are open; allow more (ulimit -n)", 4)


def test_a_full_disk_is_a_resource() -> None:
    line, code = describe_error(OSError(errno.ENOSPC, "No space left on device", "out.bin"))
    assert (line, code) == ("no space left on the disk for out.bin; make room and run it again", 4)


def test_deliberate_errors_and_others() -> None:
    assert describe_error(InputError("model.safetensors: broken")) == ("model.safetensors: broken", 3)
    assert describe_error(KeyError("x")) == ("internal error: KeyError: 'x'", 1)


@pytest.mark.parametrize("kept", [True, False])
def test_u20_what_a_signal_stops_says_once_that_it_goes_on_where_that_is_true(kept: bool) -> None:
    def stopped() -> None:
        with resumable(), resumable(lambda: kept):
            raise KeyboardInterrupt

    def discarded() -> None:
        with resumable(lambda: kept):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        stopped()
    assert caught.value.__notes__ == [GOES_ON]
    with pytest.raises(KeyboardInterrupt) as caught:
        discarded()
    assert getattr(caught.value, "__notes__", []) == [GOES_ON] * kept
