"""Folders are complete or absent, and every byte in them is accounted for."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q3edge.artifact import (
    BEHAVIOUR_FILES,
    EDITABLE_FILES,
    FileRecord,
    Manifest,
    artifact_digest,
    folder,
    is_sound,
    is_untouched,
    manifest_digest,
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


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


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
        (lambda path: (path.unlink(), path.mkdir()), "found a folder"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "dangling link"),
        (lambda path: fifo(path), "something else"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "something else"),
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


def raw_manifest(folder: Path, **fields: object) -> None:
    make(folder)
    raw = json.loads((folder / "q3edge.json").read_text())
    (folder / "q3edge.json").write_text(json.dumps(raw | fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("recipe", "metrics", "versions") for value in (None, 3, "x", [], [1])),
        ("versions", {"onnx": 1}),
        ("kind", "other"),
        ("kind", ["onnx"]),
        ("parent_digest", 3),
        ("q3edge_version", None),
        ("notices", [{"code": "a", "count": "b", "detail": "c"}]),
        ("notices", {"a": 1}),
        ("notices", [3]),
        ("files", [3]),
        ("files", {"a": {"size": "7", "sha256": "x"}}),
        ("files", {"a": {"size": 7}}),
        ("files", {"a": 3}),
        *(("metrics", {name: []}) for name in ("model_bytes", "bits_per_weight", "tensors", "validation")),
        ("metrics", {"model_bytes": True}),
        ("metrics", {"tensors": {"a": 3}}),
        ("more", 1),
    ],
)
def test_r13_a_field_of_the_wrong_shape_is_bad_input(field: str, value: object, tmp_path: Path) -> None:
    raw_manifest(tmp_path / "a", **{field: value})
    with pytest.raises(InputError, match=r"q3edge\.json: not a q3edge manifest"):
        Manifest.load(tmp_path / "a")


def test_r13_a_fifo_in_the_manifests_place_is_not_waited_for(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a/q3edge.json").unlink()
    os.mkfifo(tmp_path / "a/q3edge.json")
    with pytest.raises(InputError, match="expected a file"):
        Manifest.load(tmp_path / "a")


def test_r13_a_manifest_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a/q3edge.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "a/q3edge.json").symlink_to("../elsewhere.json")
    with pytest.raises(InputError, match=r"link out of the folder.*put a copy of the file in its place"):
        Manifest.load(tmp_path / "a")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_l15_links_are_fine_where_the_content_is_right(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    manifest = make(tmp_path / "a")
    path = tmp_path / "a/onnx/model.onnx"
    path.rename(tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", path)
    manifest.verify(tmp_path / "a")
    os.link(tmp_path / "elsewhere", tmp_path / "backup")
    manifest.verify(tmp_path / "a")
    (tmp_path / "elsewhere").write_text("weightz")
    with pytest.raises(InputError, match="sha256 differs"):
        manifest.verify(tmp_path / "a")


def test_l15_a_whole_folder_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    Manifest.load(tmp_path / "b").verify(tmp_path / "b")
    assert artifact_digest(tmp_path / "b") == artifact_digest(tmp_path / "a")


def editable(folder: Path) -> Manifest:
    with staged_directory(folder, overwrite=False) as staging:
        for name in (*EDITABLE_FILES, "config.json", "tokenizer.json"):
            (staging / name).write_text(name)
        return Manifest(kind="onnx", parent_digest="p", recipe={}).save(staging)


@pytest.mark.parametrize("name", EDITABLE_FILES)
def test_l16_what_the_owner_edits_stays_sound_and_is_another_model_where_answers_may_differ(
    name: str, tmp_path: Path
) -> None:
    manifest, folder = editable(tmp_path / "a"), tmp_path / "a"
    digest = artifact_digest(folder)
    assert digest == manifest_digest(folder)
    digests = {digest}
    for change in (lambda path: path.write_text("mine"), lambda path: path.write_text("yours"), Path.unlink):
        change(folder / name)
        manifest.verify(folder)
        assert is_sound(folder)
        assert is_untouched(folder) == (name not in BEHAVIOUR_FILES)
        assert manifest.edited(folder) == ((name,) if name in BEHAVIOUR_FILES else ())
        digests.add(artifact_digest(folder))
        assert manifest_digest(folder) == digest
    assert len(digests) == (4 if name in BEHAVIOUR_FILES else 1)
    (folder / name).write_text(name)
    assert artifact_digest(folder) == digest
    assert is_untouched(folder)


def test_l16_configuration_and_tokenizer_are_content(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        manifest = editable(tmp_path / name)
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(InputError, match=f"{name}: 4 bytes"):
            manifest.verify(tmp_path / name)


def test_an_edited_file_behind_a_link_out_of_the_folder_is_not_trusted(tmp_path: Path) -> None:
    manifest = editable(tmp_path / "a")
    template = tmp_path / "a/chat_template.jinja"
    template.unlink()
    (tmp_path / "secret").write_text("chat_template.jinja")
    template.symlink_to("../secret")
    assert manifest.edited(tmp_path / "a") == ()  # the content is what the manifest records
    (tmp_path / "secret").write_text("private")
    with pytest.raises(InputError, match=r"chat_template.jinja: is a link out of the folder"):
        manifest.edited(tmp_path / "a")
    template.unlink()
    (tmp_path / "a/mine.jinja").write_text("edited")
    template.symlink_to("mine.jinja")
    assert manifest.edited(tmp_path / "a") == ("chat_template.jinja",)


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
