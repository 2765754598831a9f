"""Arguments in the wrong place or order: each command says what a path is, and which command takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from q3edge.cli.main import main
from q3edge.errors import InputError, UsageError
from q3edge.pipeline.export import export_artifact
from q3edge.pipeline.measure.evaluate import evaluate
from q3edge.pipeline.measure.validate import validate_against
from tests.helpers.models import write_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float checkpoint and its export."""
    model, output = tmp_path_factory.mktemp("arguments") / "model", tmp_path_factory.mktemp("arguments") / "out"
    export_artifact(str(write_checkpoint(model)), output, as_float=True)
    return model, output


def test_u17_the_model_and_its_reference_swapped(folders: tuple[Path, Path]) -> None:
    model, output = folders
    with pytest.raises(UsageError, match=f"q3edge validate {output} --reference {model}"):
        validate_against(model, str(output))
    with pytest.raises(UsageError, match=f"q3edge eval {output} --reference {model}"):
        evaluate(model, str(output))
    for compare in (validate_against, evaluate):
        with pytest.raises(InputError, match=f"holds a checkpoint, not an ONNX model; make one: q3edge build {model}"):
            compare(model, str(model))


def test_u17_the_prompt_before_the_folder(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "Hello", str(folders[1])]) == 2
    assert f"the folder comes first: q3edge run {folders[1]} PROMPT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [("run", "MODEL", "Hello"), ("bench", "MODEL"), ("check", "MODEL", "--max-kl", "1"), ("diff", "OUT", "MODEL"),
     ("validate", "MODEL", "--reference", "MODEL"), ("report", "MODEL", "-o", "PAGE")],
)  # fmt: skip
@pytest.mark.parametrize("gguf", [False, True])
def test_u17_every_command_names_what_it_was_given(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], gguf: bool
) -> None:
    model = folders[0]
    if gguf:
        model = tmp_path / "m.gguf"
        model.touch()
    places = {"MODEL": str(model), "OUT": str(folders[1]), "PAGE": str(tmp_path / "page.html")}
    assert main([places.get(part, part) for part in command]) == 3
    expected = (
        "GGUF, the format of llama.cpp" if gguf else "holds a checkpoint, not an ONNX model; make one: q3edge build"
    )
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "quantize", "inspect"])
def test_u17_a_finished_folder_in_place_of_a_model(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output = [] if command == "inspect" else ["-o", str(tmp_path / "new")]
    assert main([command, str(folders[1]), *output]) == 3
    assert f"an ONNX model that q3edge built already; run it with `q3edge run {folders[1]} PROMPT`" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "new").exists()
