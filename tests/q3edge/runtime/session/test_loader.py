"""Bad inputs 32 and 33 on whole folders: a file that the manifest does not record is not loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from q3edge.artifact import Manifest
from q3edge.errors import InputError
from q3edge.runtime.model import Model
from q3edge.runtime.session.decoder import Decoder
from q3edge.runtime.session.loader import open_artifact
from tests.helpers.runtime import seal, write_artifact


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("loader") / "artifact")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "artifact"))


def edit_manifest(folder: Path, **fields: object) -> None:
    path = folder / "q3edge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_opens_what_was_exported(folder: Path) -> None:
    assert open_artifact(folder).kind == "onnx"


@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_one_flipped_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: sha256 differs"):
        Model.open(folder)


def test_short_data_file(folder: Path) -> None:
    data = folder / "onnx/model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"model.onnx_data: \d+ bytes, expected \d+"):
        Decoder(folder)


def test_short_data_file_with_a_manifest_that_agrees(folder: Path) -> None:
    data = folder / "onnx/model.onnx_data"
    data.write_bytes(data.read_bytes()[:-70000])
    seal(folder)
    with pytest.raises(InputError, match=r"model.onnx_data: \d+ bytes, but tensor '.+' ends at byte \d+"):
        Decoder(folder)


def test_reference_out_of_the_folder_with_a_manifest_that_agrees(folder: Path) -> None:
    path = folder / "onnx/model.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "../../secret"
    path.write_bytes(model.SerializeToString())
    seal(folder)
    with pytest.raises(InputError, match=r"leads out of the folder; refused"):
        Decoder(folder)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json"])
def test_unlisted_file(folder: Path, name: str) -> None:
    files = json.loads((folder / "q3edge.json").read_text())["files"]
    del files[name]
    edit_manifest(folder, files=files)
    with pytest.raises(InputError, match=f"{name}: not listed in q3edge.json"):
        Model.open(folder)


def test_missing_file(folder: Path) -> None:
    (folder / "onnx/model.onnx_data").unlink()
    with pytest.raises(InputError, match=r"model.onnx_data: missing"):
        Decoder(folder)


def test_folder_that_is_no_artifact(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="not found; expected a folder written by `q3edge export`"):
        open_artifact(tmp_path / "nowhere")
    (folder / "q3edge.json").unlink()
    with pytest.raises(InputError, match=r"has no q3edge.json"):
        open_artifact(folder)


def test_quantized_checkpoint_is_no_artifact(folder: Path) -> None:
    Manifest("quantized", "parent", {}).save(folder)
    with pytest.raises(InputError, match="holds a quantized checkpoint; run `q3edge export`"):
        open_artifact(folder)


def test_model_that_onnxruntime_refuses(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "onnx/model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    path.write_bytes(model.SerializeToString())
    seal(folder)
    with pytest.raises(InputError, match=r"model.onnx: onnxruntime \S+ cannot load it \(.*NoSuchOperator.*\)$"):
        Decoder(folder)
    assert capfd.readouterr() == ("", "")


def test_config_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    seal(folder)
    with pytest.raises(InputError, match=r"differ from a 3-layer decoder's \(past_key_values.2.key"):
        Decoder(folder)
