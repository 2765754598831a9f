"""MODEL as a folder, a hub id in the cache, and everything that is neither; no test needs a network."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from q3edge.checkpoint.hub import resolve_model
from q3edge.errors import InputError, ResourceError


@pytest.fixture(autouse=True)
def _reached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub answers that there is such a model, unless a test is offline."""
    if "offline" not in request.fixturenames:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=None))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub offline with an empty cache; returns the cache folder."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/name") == Path("org/name")  # a folder here wins over the hub


@pytest.mark.parametrize(
    "model", ["./no/such", "/no/such/folder", "nothing", "a/b/c", "../x/y", "org/na me", "", "x" * 5000]
)
def test_paths_that_do_not_exist(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not found; expected a model folder or a hub id such as Qwen"):
        resolve_model(model)


def test_a_file_is_itself(tmp_path: Path) -> None:
    """What is in it is for the readers of formats to say."""
    (tmp_path / "model.gguf").touch()
    assert resolve_model(tmp_path / "model.gguf") == tmp_path / "model.gguf"


def test_neither_a_path_nor_a_string() -> None:
    with pytest.raises(TypeError, match=r"model is int: pass a folder \(str or Path\) or a hub id"):
        resolve_model(7)  # type: ignore[arg-type]


@pytest.mark.usefixtures("offline")
def test_offline_and_absent_says_what_to_do() -> None:
    with pytest.raises(InputError) as caught:
        resolve_model("Qwen/Qwen3-0.6B")
    message = str(caught.value)
    assert message.startswith("Qwen/Qwen3-0.6B: no such folder, not in the hub's local cache")
    assert "HF_HUB_OFFLINE" in message
    assert "hf download Qwen/Qwen3-0.6B" in message
    assert "http" not in message
    assert "\n" not in message


def test_offline_and_cached(offline: Path) -> None:
    commit = "0" * 40
    snapshot = offline / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (offline / "models--org--name" / "refs").mkdir()
    (offline / "models--org--name" / "refs" / "main").write_text(commit)
    assert resolve_model("org/name") == snapshot


def test_only_the_files_of_a_model_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (tmp_path / "config.json").touch()
    assert resolve_model("org/name") == tmp_path
    assert asked["repository"] == "org/name"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])


def test_a_repository_of_other_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(InputError, match=r"org/name-GGUF: has no config\.json on the hub"):
        resolve_model("org/name-GGUF")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("https://host.invalid"), "cannot be reached"),
        (OSError("https://host.invalid"), "the transfer failed"),
        (RuntimeError("https://host.invalid"), "RuntimeError"),
    ],
)
def test_failures_of_the_hub_are_input_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=message) as caught:
        resolve_model("org/name")
    assert "host.invalid" not in str(caught.value)


def test_a_full_disk_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ResourceError, match="no space left"):
        resolve_model("org/name")


def test_one_gguf_file_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    for file in ("m-Q4_0.gguf", "big/m-00001-of-00002.gguf", "big/m-00002-of-00002.gguf"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    def download(_name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("org/name/m-Q4_0.gguf") == tmp_path / "m-Q4_0.gguf"
    assert resolve_model("org/name/big/m-00001-of-00002.gguf") == tmp_path / "big" / "m-00001-of-00002.gguf"
    assert asked == [["m-Q4_0.gguf"], ["big/m-*-of-00002.gguf"]]
    with pytest.raises(InputError, match=r"org/name: has no other\.gguf on the hub; check the file's name"):
        resolve_model("org/name/other.gguf")


def test_a_repository_of_gguf_files_is_told_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [SimpleNamespace(rfilename=name) for name in ("README.md", "m-Q8_0.gguf", "m-Q4_0.gguf")]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(
        InputError, match=r"org/name: holds GGUF files; give one of them, such as org/name/m-Q4_0\.gguf"
    ):
        resolve_model("org/name")
