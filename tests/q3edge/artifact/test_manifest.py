"""Folders are complete or absent, and every byte in them is accounted for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q3edge.artifact import FileRecord, Manifest, artifact_digest, folder, staged_directory
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.storage.exchange import exchange


def make(folder: Path, text: str = "weights", *, overwrite: bool = False) -> Manifest:
    with staged_directory(folder, overwrite=overwrite) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_text(text)
        return Manifest(kind="onnx", parent_digest="p", recipe={"rules": []}).save(staging)


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_manifest_round_trip_and_verification(tmp_path: Path) -> None:
    written = make(tmp_path / "a")
    loaded = Manifest.load(tmp_path / "a")
    assert loaded.files == written.files == {"onnx/model.onnx": FileRecord(7, written.files["onnx/model.onnx"].sha256)}
    loaded.verify(tmp_path / "a")


def test_same_content_gives_the_same_manifest(tmp_path: Path) -> None:
    make(tmp_path / "a"), make(tmp_path / "b")
    assert (tmp_path / "a/q3edge.json").read_bytes() == (tmp_path / "b/q3edge.json").read_bytes()
    assert artifact_digest(tmp_path / "a") == artifact_digest(tmp_path / "b")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda path: path.write_text("weightz"), "sha256 differs"),
        (lambda path: path.write_text("weight"), "6 bytes, expected 7"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: (path.rename(path.parent / "x"), path.symlink_to(path.parent / "x")), "found a link"),
        (lambda path: os.link(path, path.parent / "second"), "hard link"),
    ],
)
def test_tampering_is_found(tmp_path: Path, tamper: object, message: str) -> None:
    manifest = make(tmp_path / "a")
    tamper(tmp_path / "a" / "onnx" / "model.onnx")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        manifest.verify(tmp_path / "a")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "onnx/../../outside", "..\\outside"])
def test_manifest_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    (tmp_path / "outside").write_text("secret")
    manifest = Manifest(kind="onnx", parent_digest="p", recipe={}, files={name: FileRecord(6, "")})
    with pytest.raises(InputError, match="leads out of the folder"):
        manifest.verify(tmp_path / "a")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "files": 3}', "{"])
def test_a_broken_manifest_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "q3edge.json").write_text(text)
    with pytest.raises(InputError, match=r"q3edge\.json"):
        Manifest.load(tmp_path)


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
        monkeypatch.setattr(os.path, "lexists", lambda _: next(answers, True))

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
        assert leftovers(tmp_path) == [".a.partial-1", "a"]
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
