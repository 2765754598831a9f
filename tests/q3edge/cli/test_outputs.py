"""What every command does with the place that it writes: one at a time, and nothing of other people's."""

from __future__ import annotations

from pathlib import Path

import pytest

from q3edge.cli.main import main
from tests.helpers.models import write_checkpoint
from tests.helpers.outputs import output_holder
from tests.helpers.runtime import write_artifact

COMMANDS = {
    "quantize": ["quantize", "MODEL", "-o", "OUT", "--overwrite"],
    "export": ["export", "MODEL", "-o", "OUT", "--format", "float", "--overwrite"],
    "build": ["build", "MODEL", "-o", "OUT", "--overwrite"],
    "sweep": ["sweep", "MODEL", "-o", "OUT", "--formats", "int8"],
    "demo": ["demo", "-o", "OUT"],
    "report": ["report", "ARTIFACT", "-o", "OUT"],
    "report as json": ["report", "ARTIFACT", "-o", "page.html", "--json-file", "OUT"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("outputs")
    return {"MODEL": str(write_checkpoint(folder / "model")), "ARTIFACT": str(write_artifact(folder / "artifact"))}


@pytest.mark.parametrize("command", COMMANDS)
def test_r11_the_second_command_on_an_output_is_told_who_holds_it(
    command: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    words = [places.get(word, str(output) if word == "OUT" else word) for word in COMMANDS[command]]
    with output_holder(output) as child:
        assert main(words) == 4
        assert f"{output}: process {child.pid} is working on this output; wait for it" in capsys.readouterr().err
        assert not output.exists()


def test_u21_the_demo_writes_into_no_folder_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert "is not empty and no demo made it; choose another folder with -o" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["demo", "-o", str(tmp_path / "thesis.txt")]) == 2


def test_r11_a_sweep_whose_record_was_damaged_is_refused(
    places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "sweep.json"
    record.write_text('{"variants": {"int8": {"request": "a", "artifact": "b"}}, "sha256": "c"}')
    assert main(["sweep", places["MODEL"], "-o", str(tmp_path), "--formats", "int8"]) == 3
    assert "sweep.json: damaged (its content differs from its sha256)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 256, "/".join(["y" * 200] * 30)], ids=["long", "name", "path"])
@pytest.mark.parametrize("command", [*COMMANDS, "run", "bench", "check"])
def test_u18_a_name_that_is_too_long_is_one_line(
    command: str, name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    reading = {"run": ["run", "OUT", "hi"], "bench": ["bench", "OUT"], "check": ["check", "OUT", "--max-kl", "1"]}
    words = [places.get(word, name if word == "OUT" else word) for word in (COMMANDS | reading)[command]]
    assert main(words) in ((2, 3) if command in reading else (2, 4))
    assert "internal error" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "page.html"] == []
