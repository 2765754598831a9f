"""The family of Qwen3 models: facts against what others publish of them, and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from q3edge.architecture.tensors import count_active_weights, count_weights
from q3edge.checkpoint import hub
from q3edge.checkpoint.known_models import hub_id_of, known_model, known_models, nearest_names
from q3edge.errors import InputError
from q3edge.progress import Silent, report_to

# As the presets of the package keras-hub 0.30 say, which were converted from the checkpoints; its embedding models have
# the head besides that the checkpoint of 8B leaves out.
PUBLISHED = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-coder-30b-a3b-instruct": 30_532_122_624,
    "qwen3-embedding-0.6b": 595_776_512,
    "qwen3-embedding-4b": 4_021_774_336,
    "qwen3-embedding-8b": 8_188_515_328 - 151_665 * 4096,
}


def named(name: str) -> Any:
    found = known_model(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_come_to_the_published_number_of_weights(name: str) -> None:
    assert count_weights(named(name).config) == PUBLISHED[name]


def test_mixtures_use_as_many_weights_a_token_as_their_names_say() -> None:
    found = {
        name: count_active_weights(named(name).config) for name in ("30b-a3b", "235b-a22b", "coder-480b-a35b-instruct")
    }
    assert [round(active / 1e9) for active in found.values()] == [3, 22, 35]
    assert round(count_weights(named("coder-480b-a35b-instruct").config) / 1e9) == 480


def test_context_and_thinking() -> None:
    assert {m.thinks for m in known_models() if "-instruct" in m.name} == {"never"}
    assert {m.thinks for m in known_models() if "-thinking" in m.name} == {"always"}
    assert {m.config.context_length for m in known_models() if "-2507" in m.name} == {262_144}
    assert named("8b").thinks == "hybrid"
    assert named("8b-base").thinks is None


def test_the_download_has_a_tied_head_twice_where_the_files_do() -> None:
    """The hub counts 0.75 G and 2.03 G parameters in the files of these two, and 0.60 G in those of the base model."""
    assert round(named("0.6b").download_bytes / 2e9, 2) == 0.75
    assert round(named("1.7b").download_bytes / 2e9, 2) == 2.03
    assert round(named("0.6b-base").download_bytes / 2e9, 2) == 0.60


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("4b-instruct-2507", "Qwen/Qwen3-4B-Instruct-2507"),
        ("8b-awq", "Qwen/Qwen3-8B-AWQ"),
        ("qwen3-30b-a3b-gptq-int4", "Qwen/Qwen3-30B-A3B-GPTQ-Int4"),
        ("embedding-0.6b", "Qwen/Qwen3-Embedding-0.6B"),
        ("Qwen/Qwen3-0.6B", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_short_names(name: str, hub_id: str | None) -> None:
    assert hub_id_of(name) == hub_id


def test_every_name_is_its_own() -> None:
    ids = [hub_id for model in known_models() for hub_id in (model.hub_id, *model.quantized.values())]
    assert len(set(map(str.lower, ids))) == len(ids)
    assert [hub_id_of(hub_id.partition("/")[2]) for hub_id in ids] == ids


def test_nearest_names() -> None:
    assert nearest_names("qwen3-9b")[0] == "qwen3-8b"
    assert nearest_names("coder-30b")[0] == "qwen3-coder-30b-a3b-instruct"
    assert nearest_names("llama") == nearest_names("") == nearest_names("x" * 5000) == []


class Heard(Silent):
    """A listener that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_short_name_is_loaded_by_its_hub_id_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot(repository: str, **_: Any) -> str:
        asked.append(repository)
        return str(tmp_path)

    (tmp_path / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: type("Info", (), {"siblings": None}))
    heard = Heard()
    with report_to(heard):
        assert hub.resolve_model("1.7b") == tmp_path
    assert asked == ["Qwen/Qwen3-1.7B"]
    assert heard.lines == ["note: 1.7b is Qwen/Qwen3-1.7B on the hub"]
    (tmp_path / "1.7b").mkdir()
    assert hub.resolve_model("1.7b") == Path("1.7b")  # a folder here wins
    assert asked == ["Qwen/Qwen3-1.7B"]


def test_what_is_almost_a_short_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"qwen3-9b: not found; .*or a name of `q3edge zoo`, such as qwen3-8b, "):
        hub.resolve_model("qwen3-9b")
