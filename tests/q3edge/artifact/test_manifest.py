"""Every byte of a folder is accounted for, and what its owner may change is told apart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from q3edge.artifact import (
    BEHAVIOUR_FILES,
    EDITABLE_FILES,
    FileRecord,
    Manifest,
    artifact_digest,
    is_sound,
    is_untouched,
    manifest_digest,
    staged_directory,
)
from q3edge.errors import InputError


def make(folder: Path, text: str = "weights", *, overwrite: bool = False) -> Manifest:
    with staged_directory(folder, overwrite=overwrite) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_text(text)
        return Manifest(kind="onnx", parent_digest="p", recipe={"rules": []}).save(staging)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


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
        ("kind", "unheard of"),
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
        ("metrics", {"lost_scales": {"a": 3}}),
        ("metrics", {"lost_scales": {"a": {"lost": 1, "groups": 2}}}),
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
