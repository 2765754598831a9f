"""Any exception becomes one line and an exit code."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from q3edge.errors import InputError, describe_error

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
    ],
    ids=["torch", "numpy", "python", "onnxruntime"],
)
def test_bad_input_27_too_little_memory_is_a_resource(error: Exception) -> None:
    line, code = describe_error(error)
    assert code == 4
    assert line.startswith("not enough memory")
    assert "\n" not in line
    if "allocate memory" in str(error):
        assert "1073741824.0 GiB more were needed" in line


def test_a_full_disk_is_a_resource() -> None:
    line, code = describe_error(OSError(errno.ENOSPC, "No space left on device", "out.bin"))
    assert (line, code) == ("no space left on the disk for out.bin; make room and run it again", 4)


def test_deliberate_errors_and_others() -> None:
    assert describe_error(InputError("model.safetensors: broken")) == ("model.safetensors: broken", 3)
    assert describe_error(KeyError("x")) == ("internal error: KeyError: 'x'", 1)
