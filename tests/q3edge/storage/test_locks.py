"""An output has one writer at a time, who is named to the second, and whose end frees it however it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import ResourceError
from q3edge.storage.locks import output_lock, take_lock_of
from q3edge.storage.whole_files import remove_all_leftovers
from tests.helpers.outputs import output_holder


def test_r11_the_second_is_told_who_holds_the_output(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    with output_holder(output) as child:
        with pytest.raises(ResourceError, match=rf"out: process {child.pid} is working on this output"):
            output_lock(output).__enter__()
        with output_lock(tmp_path / "new" / "other"):
            pass
        assert os.listdir(output.parent) == [".out.lock"]
    with output_lock(output):
        pass
    assert os.listdir(tmp_path) == []  # the folder made for the lock too


def test_a_killed_holder_is_no_holder(tmp_path: Path) -> None:
    with output_holder(tmp_path / "out") as child:
        child.kill()
        child.wait()
        assert os.listdir(tmp_path) == [".out.lock"]
        with output_lock(tmp_path / "out"):
            assert (tmp_path / ".out.lock").read_text() == f"process {os.getpid()}"
    assert os.listdir(tmp_path) == []


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    with output_holder(tmp_path / "out") as child:
        waiting = f"""
from pathlib import Path
from q3edge.storage.locks import output_lock
with output_lock(Path({str(tmp_path / "out")!r}), wait=True):
    print("mine")
"""
        with subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE) as other:
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.5)
            child.communicate()
            assert other.communicate()[0] == b"mine\n"
    assert os.listdir(tmp_path) == []


def test_who_waits_for_a_lock_file_that_is_removed_makes_its_own(tmp_path: Path) -> None:
    """One that was removed while another process had it open is no lock any more."""
    path = tmp_path / ".out.lock"
    path.write_text("process 1")
    descriptor = os.open(path, os.O_RDWR)  # of a process that is about to lock it
    try:
        remove_all_leftovers(tmp_path)
        assert not path.exists()
        assert not take_lock_of(path, descriptor)
        with output_lock(tmp_path / "out"):
            assert not take_lock_of(path, descriptor)
            remove_all_leftovers(tmp_path)
            assert path.exists()
    finally:
        os.close(descriptor)


def test_what_one_holds_it_may_hold_again(tmp_path: Path) -> None:
    with output_lock(tmp_path / "out"):
        with output_lock(tmp_path / "out"):
            pass
        assert os.listdir(tmp_path) == [".out.lock"]
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"out: cannot be written \(.*\); choose another folder"):
        output_lock(tmp_path / "file" / "out").__enter__()
    with output_lock(tmp_path / "file" / "out", lenient=True):
        pass


def test_an_error_inside_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), output_lock(tmp_path / "out", lenient=True):
        (tmp_path / "nothing").read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", ["open", "ftruncate", "write", "read"])
def test_r1_a_signal_while_the_lock_is_taken_leaves_no_file(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system call is done when the signal's handler raises."""
    call = getattr(os, moment)

    def stopped(*arguments: Any) -> None:
        call(*arguments)
        monkeypatch.setattr(os, moment, call)
        raise KeyboardInterrupt

    if moment == "read":  # of another's lock, which stays
        (tmp_path / ".out.lock").write_text("process 1")
        monkeypatch.setattr("q3edge.storage.locks.take_lock", lambda _descriptor: False)
    monkeypatch.setattr(os, moment, stopped)
    with pytest.raises(KeyboardInterrupt), output_lock(tmp_path / "out"):
        raise AssertionError("never here")
    assert [path.name for path in tmp_path.iterdir()] == ([".out.lock"] if moment == "read" else [])
