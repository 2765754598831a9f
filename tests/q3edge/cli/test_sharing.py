"""U4: push, pull, list, and models by hub id, with a stand-in for the hub on the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from q3edge.artifact import Manifest
from q3edge.cli.main import main
from q3edge.pipeline import sharing
from tests.helpers.hub_server import TOKEN, Hub, hub
from tests.helpers.runtime import write_artifact

CONTENT = ("q3edge.json", "config.json", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json")


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Artifact of a random model, with files beside it that are no part of it."""
    folder = write_artifact(tmp_path / "artifact")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "token").write_text("private")
    (folder / "notes.txt").write_text("private")
    return folder


class Command:
    """`q3edge` as users start it, with `server` as its hub and an empty cache."""

    def __init__(self, server: Hub, home: Path) -> None:
        self.home = home
        self.environment = {
            **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        self.environment.pop("HF_HUB_OFFLINE", None)

    def __call__(self, *words: object, token: str | None = TOKEN, offline: bool = False) -> tuple[int, str, str]:
        """Run it; returns exit code, stdout and stderr, in which no token ever is."""
        environment = {**self.environment, "HF_TOKEN": token or ""}
        if offline:
            environment["HF_HUB_OFFLINE"] = "1"
        command = [sys.executable, "-m", "q3edge", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert TOKEN not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def q3edge(server: Hub, tmp_path: Path) -> Command:
    return Command(server, tmp_path / "home")


def publish(server: Hub, folder: Path, name: str = "org/name") -> dict[str, bytes]:
    """Put the files of an artifact on the hub; returns them."""
    names = ["q3edge.json", *Manifest.load(folder).files]
    server.repositories[name] = {name: (folder / name).read_bytes() for name in names}
    return server.repositories[name]


def asked(server: Hub, method: str, part: str) -> int:
    """Count the requests of a method for paths that hold `part`."""
    return sum(made == method and part in path for made, path in server.requests)


@pytest.mark.slow
def test_u4_what_is_pushed_is_the_model_and_runs_by_its_id(
    server: Hub, folder: Path, q3edge: Command, tmp_path: Path
) -> None:
    code, out, error = q3edge("push", folder, "org/name", "--private")
    assert (code, out) == (0, ""), error
    assert "MB to org/name; try: q3edge run org/name" in error
    files = server.repositories["org/name"]
    assert set(files) == {".gitattributes", "README.md", "q3edge.json", *Manifest.load(folder).files}
    assert all(files[name] == (folder / name).read_bytes() for name in CONTENT)
    assert server.private == {"org/name"}
    assert files["README.md"].startswith(b"---\npipeline_tag: text-generation\n")  # the folder has none of its own

    words = ("the cat", "--temperature", 0, "--max-new-tokens", 4, "--raw")
    code, out, error = q3edge("run", "org/name", *words)
    assert (code, out) == (0, q3edge("run", folder, *words)[1]), error
    assert q3edge("run", "org/name", *words, offline=True)[:2] == (0, out)

    code, out, error = q3edge("list", tmp_path, "--json", offline=True)
    assert code == 0
    assert [(model["name"], model["complete"]) for model in json.loads(out)["models"]] == [
        (str(folder), True),
        ("org/name", True),
    ]

    code, _, error = q3edge("pull", "org/name", "-o", tmp_path / "copy")
    assert code == 0, error
    copied = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert copied == {"README.md", "q3edge.json", *Manifest.load(folder).files}
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    (snapshot,) = (q3edge.home / "hub/models--org--name/snapshots").iterdir()
    shared = {name for name in copied if (tmp_path / "copy" / name).samefile(snapshot / name)}
    assert shared == {"onnx/model.onnx", "onnx/model.onnx_data"}  # the space once; what is edited is the copy's own
    assert q3edge("pull", "org/name", "-o", tmp_path / "copy")[0] == 2  # it exists


@pytest.mark.slow
def test_a_stopped_pull_goes_on_where_it_was(server: Hub, folder: Path, q3edge: Command, tmp_path: Path) -> None:
    publish(server, folder)
    server.fail = "GET /org/name/resolve/" + server.commit("org/name") + "/onnx/model.onnx_data"
    code, _, error = q3edge("pull", "org/name", "-o", tmp_path / "copy")
    assert code == 3
    assert "org/name: the transfer failed" in error
    assert "127.0.0.1" not in error.splitlines()[-1]
    assert not (tmp_path / "copy").exists()
    server.fail = None
    loaded = asked(server, "GET", "tokenizer.json")
    code, _, error = q3edge("pull", "org/name", "-o", tmp_path / "copy")
    assert code == 0, error
    assert asked(server, "GET", "tokenizer.json") == max(loaded, 1)
    assert (tmp_path / "copy/onnx/model.onnx_data").read_bytes() == (folder / "onnx/model.onnx_data").read_bytes()


@pytest.mark.slow
def test_a_stopped_push_goes_on_where_it_was(server: Hub, folder: Path, q3edge: Command) -> None:
    server.fail = "/commit/"
    assert q3edge("push", folder, "org/name")[0] == 3
    uploads = asked(server, "PUT", "/uploads/")
    assert uploads == 3  # graph, data, tokenizer
    assert set(server.repositories["org/name"]) == {".gitattributes"}
    server.fail = None
    assert q3edge("push", folder, "org/name")[0] == 0
    assert asked(server, "PUT", "/uploads/") == uploads
    assert set(CONTENT) < set(server.repositories["org/name"])


@pytest.mark.slow
def test_a_template_of_an_earlier_model_there_is_removed(server: Hub, folder: Path, q3edge: Command) -> None:
    publish(server, folder)["chat_template.jinja"] = b"another model's"
    server.repositories["org/name"]["LICENSE"] = b"the author's"
    assert q3edge("push", folder, "org/name")[0] == 0
    assert "chat_template.jinja" not in server.repositories["org/name"]
    assert "LICENSE" in server.repositories["org/name"]


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(server: Hub, folder: Path, q3edge: Command) -> None:
    publish(server, folder)
    server.private.add("org/name")
    for words, said in (
        (("push", folder, "org/other"), "hf auth login"),
        (("pull", "org/name"), "no such model on the hub"),
        (("run", "org/nothing", "hi"), "no such model on the hub"),
    ):
        code, _, error = q3edge(*words, token="hf_wrong")
        assert code == 3, error
        assert said in error.splitlines()[-1]
        assert "Traceback" not in error
    server.repositories["org/float"] = {"config.json": b"{}", "model.safetensors": b"x" * 1000}
    code, _, error = q3edge("run", "org/float", "hi")
    assert code == 3
    assert "it is no ONNX model of q3edge; a checkpoint is built first: q3edge build org/float -o DIR" in error
    assert asked(server, "GET", "safetensors") == 0


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line_without_repetitions(
    server: Hub, folder: Path, q3edge: Command, tmp_path: Path
) -> None:
    """The library asks six times, each time with lines of its own."""
    publish(server, folder)
    server.repositories["org/float"] = {"config.json": b"{}"}
    words = ("run", "org/name", "the cat", "--temperature", 0, "--max-new-tokens", 4, "--raw")
    answer = q3edge(*words)
    assert answer[0] == 0
    assert q3edge("inspect", "org/float")[0] == 3  # in the cache now, as far as there is anything
    q3edge.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # a port that nobody listens at
    for command, advice in ((("run", "org/other", "hi"), "q3edge pull"), (("bench", "org/other"), "q3edge pull"),
                            (("build", "org/other", "-o", tmp_path / "out"), "hf download")):  # fmt: skip
        code, out, error = q3edge(*command)
        assert (code, out) == (3, ""), error
        line = error.splitlines()[-1]
        assert line.startswith("q3edge: org/other: no such folder, not in the hub's local cache")
        assert f"run `{advice} org/other` where there is a network" in line
        assert "Retry" not in error
    code, out, error = q3edge(*words)
    assert (code, out) == answer[:2]
    assert error.splitlines()[0] == "note: org/name: the hub cannot be reached, so what its cache has is used"
    code, _, error = q3edge("run", "org/float", "hi")
    assert (code, len(error.splitlines())) == (3, 2)
    assert error.endswith("a checkpoint is built first: q3edge build org/float -o DIR\n")


@pytest.mark.slow
def test_a_checkpoint_is_known_by_its_list_of_files_before_anything_is_loaded(server: Hub, q3edge: Command) -> None:
    server.repositories["org/float"] = {"config.json": b"{}", "model.safetensors": b"x" * 1000}
    code, out, error = q3edge("run", "org/float", "hi")
    assert (code, out, len(error.splitlines())) == (3, "", 1), error
    assert asked(server, "GET", "/resolve/") + asked(server, "HEAD", "/resolve/") == 0


@pytest.mark.slow
def test_a_changed_weight_on_the_hub_is_refused(server: Hub, folder: Path, q3edge: Command, tmp_path: Path) -> None:
    files = publish(server, folder)
    files["onnx/model.onnx_data"] = bytes(len(files["onnx/model.onnx_data"]))
    for words in (("run", "org/name", "hi"), ("pull", "org/name"), ("pull", "org/name", "-o", tmp_path / "copy")):
        code, _, error = q3edge(*words)
        assert code == 3
        assert "model.onnx_data: sha256 differs" in error
    assert not (tmp_path / "copy").exists()


class Cached:
    """Repository whose files are all in the cache."""

    folders: ClassVar[list[Path]] = []

    def __init__(self, _name: str) -> None:
        pass

    def lacks(self, _file: str) -> bool:
        return False

    def folder(self, files: Sequence[str]) -> Path:
        self.asked.append(len(files))
        return self.folders[0]

    asked: ClassVar[list[int]] = []


@pytest.mark.parametrize("linked", [True, False])
def test_a_copy_without_room_is_refused_before_weights_are_loaded(
    linked: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharing, "Repository", Cached)
    monkeypatch.setattr(Cached, "folders", [folder])
    monkeypatch.setattr(Cached, "asked", [])
    small = sum((folder / name).stat().st_size for name in CONTENT if not name.startswith("onnx/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2 * small))
    if not linked:
        monkeypatch.setattr(sharing, "_LINKED", ())  # as on two file systems
    code = main(["pull", "org/name", "-o", str(tmp_path / "copy")])
    if linked:
        assert code == 0
        return
    assert code == 4
    assert "the copy needs" in capsys.readouterr().err
    assert Cached.asked == [1]  # the manifest
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["push", "ARTIFACT", "name"], "expected a hub id, ORG/NAME"),
        (["pull", "../name"], "expected a hub id, ORG/NAME"),
        (["push", "nowhere", "org/name"], "has no q3edge.json"),
    ],
)
def test_names_are_checked_before_anything_is_asked(
    words: Sequence[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder) if word == "ARTIFACT" else word for word in words]) in (2, 3)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["content", "link"])
def test_what_is_damaged_or_leads_elsewhere_is_not_pushed(
    damage: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "content":
        (folder / "tokenizer.json").write_text("{}")
    else:
        (tmp_path / "secret").write_text("private key")
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    assert main(["push", str(folder), "org/name"]) == 3
    said = capsys.readouterr().err
    assert ("tokenizer.json: 2 bytes" if damage == "content" else "is a link out of the folder") in said


def test_list_shows_what_run_can_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would make a paragraph of a row
    for number, place in enumerate(("a", "b/c", "d/e/f")):
        folder = write_artifact(tmp_path / place)
        metrics = {"validation": {"overall": {"mean_kl": {"value": 0.01 * number}}}}
        Manifest("onnx", "p", {}, metrics=metrics).save(folder)
    (tmp_path / "b/c/onnx/model.onnx_data").write_bytes(b"")
    (tmp_path / "other").mkdir()
    Manifest("quantized", "p", {}).save(tmp_path / "other")
    assert main(["list", "."]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines()[2:] if line.startswith(("a ", "b", "d"))]
    assert [line.split()[0] for line in shown] == ["a", "b/c"]
    assert "(incomplete)" in shown[1]
    assert shown[0].split()[2:] == ["-", "0.0000"]
    assert main(["list", "none"]) == 3
    assert "none: not found" in capsys.readouterr().err
