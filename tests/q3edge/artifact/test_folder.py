"""Folders are complete or absent, whatever fails, is killed or comes between."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q3edge.artifact import (
    Manifest,
    folder,
    staged_directory,
)
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.storage.exchange import exchange
from q3edge.storage.locks import locked


def make(folder: Path, text: str = "weights", *, overwrite: bool = False) -> Manifest:
    with staged_directory(folder, overwrite=overwrite) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_text(text)
        return Manifest(kind="onnx", parent_digest="p", recipe={"rules": []}).save(staging)


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")

    def fail() -> None:
        with staged_directory(tmp_path / "a", overwrite=True) as staging:
            (staging / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert leftovers(tmp_path) == ["a"]
    assert (tmp_path / "a/onnx/model.onnx").read_text() == "old"


def test_overwrite_replaces_whole_folders_that_q3edge_wrote(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    with pytest.raises(UsageError, match="exists already"):
        make(tmp_path / "a")
    make(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a/onnx/model.onnx").read_text() == "new"
    assert leftovers(tmp_path) == ["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="was not written by q3edge"):
        make(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("what", ["folder", "empty folder", "file", "dangling link", "q3edge folder"])
@pytest.mark.parametrize("seen", [True, False], ids=["before", "in the same instant"])
def test_what_appears_during_the_run_is_left_alone(
    what: str, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, other = tmp_path / "a", tmp_path / "other"
    if what == "q3edge folder":
        make(other, "another run's")
    if not seen:
        if what == "empty folder":
            pytest.skip("a renaming replaces it, and nothing is lost")
        answers = iter([False, False])  # at the start, and before the renaming
        monkeypatch.setattr(folder, "_is_taken", lambda _: next(answers, True))

    def build() -> None:
        with staged_directory(output, overwrite=False) as staging:
            Manifest(kind="onnx", parent_digest="p", recipe={}).save(staging)
            if what == "q3edge folder":
                other.rename(output)
            elif what == "file":
                output.write_text("thesis")
            elif what == "dangling link":
                output.symlink_to("nowhere")
            else:
                output.mkdir()
                if what == "folder":
                    (output / "thesis.txt").write_text("years of work")

    with pytest.raises(UsageError, match="exists already"):
        build()
    assert leftovers(tmp_path) == ["a"]
    untouched: dict[str, Callable[[], bool]] = {
        "folder": lambda: (output / "thesis.txt").read_text() == "years of work",
        "empty folder": lambda: leftovers(output) == [],
        "file": lambda: output.read_text() == "thesis",
        "dangling link": output.is_symlink,
        "q3edge folder": lambda: (output / "onnx/model.onnx").read_text() == "another run's",
    }
    assert untouched[what]()


@pytest.mark.parametrize("at_once", [True, False], ids=["exchanged", "renamed twice"])
@pytest.mark.parametrize("before", [True, False], ids=["instead of the old", "where nothing was"])
def test_overwrite_leaves_what_appears_during_the_run_unless_q3edge_wrote_it(
    before: bool, at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a"
    if not at_once:
        monkeypatch.setattr(folder, "exchange", lambda *_: False)

    def build(appears: Callable[[], object]) -> None:
        with staged_directory(output, overwrite=True) as staging:
            Manifest(kind="onnx", parent_digest="new", recipe={}).save(staging)
            if output.exists():
                output.rename(tmp_path / "moved")
            appears()

    def thesis() -> None:
        output.mkdir()
        (output / "thesis.txt").write_text("years of work")

    if before:
        make(output, "old")
    with pytest.raises(UsageError, match="was not written by q3edge"):
        build(thesis)
    assert leftovers(output) == ["thesis.txt"]
    assert leftovers(tmp_path) == ["a", "moved"][: 1 + before]
    output.rename(tmp_path / "mine")
    if before:
        (tmp_path / "moved").rename(output)
    make(tmp_path / "other", "another run's")
    build(lambda: (tmp_path / "other").rename(output))
    assert Manifest.load(output).parent_digest == "new"
    assert leftovers(tmp_path) == ["a", "mine", "moved"][: 2 + before]


def test_what_comes_between_the_last_check_and_the_exchange_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a"
    make(output, "old")

    def late(first: Path, second: Path) -> bool:
        if not (tmp_path / "moved").exists():
            output.rename(tmp_path / "moved")
            output.mkdir()
            (output / "thesis.txt").write_text("years of work")
        return exchange(first, second) or pytest.skip("this system or disk cannot exchange names")

    monkeypatch.setattr(folder, "exchange", late)
    with pytest.raises(UsageError, match="was not written by q3edge"):
        make(output, "new", overwrite=True)
    assert leftovers(output) == ["thesis.txt"]
    assert leftovers(tmp_path) == ["a", "moved"]


def test_output_may_not_overlap_the_input(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for output in (source, source / "out", tmp_path):
        with (
            pytest.raises(UsageError, match="overlaps the input"),
            staged_directory(output, overwrite=True, inputs=(source,)),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_a_resource_error(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(ResourceError, match="cannot be written"),
        staged_directory(tmp_path / "a", overwrite=False),
    ):
        raise OSError(number, os.strerror(number))
    assert leftovers(tmp_path) == []


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    for name in (".a.partial-1", ".b.partial-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    make(tmp_path / "a")
    assert leftovers(tmp_path) == [".b.partial-1", "a"]  # another output's are its own business


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "a", overwrite=False) as staging:
        other = staging.rename(tmp_path / ".a.partial-1")  # as if by another process
        make(tmp_path / "a")
        assert leftovers(tmp_path) == [".a.lock", ".a.partial-1", "a"]
        other.rename(staging)
        (tmp_path / "a").rename(tmp_path / "moved")
    assert leftovers(tmp_path) == ["a", "moved"]


@pytest.mark.parametrize("at_once", [True, False], ids=["exchanged", "renamed twice"])
@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_while_it_replaces_the_output_is_the_old_or_the_new(kill_at: int, at_once: bool, tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    calls = 0

    def or_killed(original: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= kill_at:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "exchange", or_killed(exchange if at_once else lambda *_: False))
        patch.setattr(Path, "rename", or_killed(Path.rename))
        if at_once and kill_at > 1:
            make(tmp_path / "a", "new", overwrite=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / "a", "new", overwrite=True)
    if at_once:
        assert (tmp_path / "a/onnx/model.onnx").read_text() == ("old" if kill_at == 1 else "new")
        assert leftovers(tmp_path) == ["a"]
    with pytest.raises(UsageError, match="exists already"):
        make(tmp_path / "a", "another")
    assert (tmp_path / "a/onnx/model.onnx").read_text() == ("new" if at_once and kill_at > 1 else "old")
    assert leftovers(tmp_path) == ["a"]


def test_r9_temporary_checkpoints_of_killed_processes_are_removed_by_the_next_on_that_output(tmp_path: Path) -> None:
    for name in (".a.partial-1", ".a.quantized.partial-2", ".b.quantized.partial-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    with locked(tmp_path / ".a.partial-1"):  # its owner is alive
        make(tmp_path / "a")
        assert leftovers(tmp_path) == [".a.partial-1", ".b.quantized.partial-3", "a"]
    make(tmp_path / "a", overwrite=True)
    assert leftovers(tmp_path) == [".b.quantized.partial-3", "a"]


def overwrite_bytes(path: Path) -> None:
    path.write_bytes(b"x" * len(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        overwrite_bytes,
        lambda path: path.write_bytes(b""),
        Path.unlink,
        lambda path: (path.with_name("new").write_bytes(path.read_bytes()), path.with_name("new").replace(path)),
    ],
)
def test_r16_a_source_that_changes_while_it_is_read_is_noticed(
    change: Callable[[Path], object], tmp_path: Path
) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights")
    make(tmp_path / "a", "old")

    def build() -> None:
        with staged_directory(tmp_path / "a", overwrite=True, inputs=(source,)) as staging:
            Manifest(kind="onnx", parent_digest="p", recipe={}).save(staging)
            (source / "notes.md").write_text("new files are nobody's business")
            change(source / "model.safetensors")

    with pytest.raises(InputError, match=r"model\.safetensors: was changed while it was read"):
        build()
    assert (tmp_path / "a/onnx/model.onnx").read_text() == "old"
    assert leftovers(tmp_path) == ["a", "model"]
