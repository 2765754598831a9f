"""Bad inputs 32 and 33 on whole folders: a file that the manifest does not record is not loaded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from q3edge.artifact import Manifest
from q3edge.artifact.side_files import copy_side_files
from q3edge.errors import InputError, ResourceError
from q3edge.progress import Silent, report_to
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


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "config.json", "tokenizer.json"])
def test_one_flipped_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: sha256 differs"):
        Model.open(folder)


def test_q12_a_bad_allocation_while_loading_is_no_broken_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception while pre-packing: std::bad_alloc")

    monkeypatch.setattr("onnxruntime.InferenceSession", refused)
    with pytest.raises(ResourceError, match=r"not enough memory; .*model\.onnx is loaded in about 0\.0 GiB"):
        Decoder(folder)


def test_r14_a_graph_that_fails_while_it_runs_is_bad_input(folder: Path) -> None:
    """A lookup of a row that no table has: the graph loads, as shapes are not known before it runs."""
    path = folder / "onnx/model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.append(onnx.helper.make_tensor("shift", onnx.TensorProto.INT64, [1], [10**6]))
    for node in model.graph.node:
        node.input[:] = ["moved" if name == "input_ids" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["input_ids", "shift"], ["moved"]))
    onnx.save(model, path)
    seal(folder)
    decoder = Decoder(folder)
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime .* fails while it runs \(.*\); export again"):
        decoder.forward(np.array([[1]]), decoder.new_cache(4))


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is asked of /proc")
@pytest.mark.parametrize("limit", [64, 150, 200])
def test_q12_a_limit_of_memory_always_ends_in_the_same_code(folder: Path, limit: int) -> None:
    """At 64 MiB numpy's products would end the process, at 200 MiB the tokenizer would abort it."""
    script = f'ulimit -v {limit * 1024}; exec "$0" -m q3edge run "$1" Hello'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, str(folder)], capture_output=True, text=True, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "not enough memory" in done.stderr
    assert done.stderr.count("\n") == 1


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


def only_a_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder / "onnx")


def a_foreign_graph(folder: Path) -> None:
    (folder / "onnx/model.onnx").rename(folder / "onnx/model_q4.onnx")


def an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')
    only_a_checkpoint(folder)


def a_gguf(folder: Path) -> None:
    only_a_checkpoint(folder)
    (folder / "m.gguf").touch()


def a_quantized_checkpoint_of_others(folder: Path) -> None:
    only_a_checkpoint(folder)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "compressed-tensors"}}')


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_a_checkpoint, r"holds a checkpoint, not an ONNX model; make one: q3edge build \S+artifact -o DIR"),
        (a_foreign_graph, "an ONNX model of another tool, which q3edge neither reads nor runs"),
        (an_adapter, r"holds a checkpoint, not an ONNX model; make one: q3edge build \S+artifact -o DIR"),
        (a_gguf, "GGUF, the format of llama.cpp"),
        (a_quantized_checkpoint_of_others, r"holds a checkpoint, not an ONNX model; make one: q3edge build \S+"),
        (nothing, r"has no q3edge.json; expected a folder that q3edge wrote"),
    ],
)
def test_u17_what_is_no_artifact_is_named_with_the_command(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    (folder / "q3edge.json").unlink()
    change(folder)
    for opens in (open_artifact, Model.open, Decoder):
        with pytest.raises(InputError, match=message):
            opens(folder)


def test_u17_a_part_of_a_model_or_a_folder_of_models_is_told_which_folder_to_give(folder: Path, tmp_path: Path) -> None:
    """Commands to copy quote what a shell would part."""
    home = tmp_path / "my models"
    shutil.move(folder, home / "int4")
    for part in (home / "int4/onnx", home / "int4/onnx/model.onnx"):
        with pytest.raises(InputError, match=r"part of an ONNX model that q3edge built; give .*my models/int4$"):
            open_artifact(part)
    with pytest.raises(InputError, match=r"holds several models; give one of them, such as .*my models/int4$"):
        open_artifact(home)
    only_a_checkpoint(home / "int4")
    (home / "int4/q3edge.json").unlink()
    with pytest.raises(InputError, match=r"make one: q3edge build '.*my models/int4' -o DIR$"):
        open_artifact(home / "int4")


@pytest.mark.parametrize(("name", "message"), [("m.gguf", "GGUF"), ("m.onnx", "an ONNX model"), ("m", "is a file")])
def test_u17_a_file_in_place_of_a_folder(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        open_artifact(tmp_path / name)


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


def in_the_hubs_cache(folder: Path, cache: Path) -> Path:
    """Move an artifact into a cache as huggingface_hub lays it out, every file a link; returns the snapshot."""
    repository = cache / "models--org--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


def answer(folder: Path) -> str:
    with Model.open(folder) as model:
        return model.chat("hello", temperature=0.0, max_new_tokens=4).text


@pytest.mark.parametrize("edited", [False, True])
def test_u1_the_hubs_cache_is_opened_where_it_lies(folder: Path, edited: bool, tmp_path: Path) -> None:
    expected = answer(folder)
    if edited:  # by its author, on the hub
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        (folder / "generation_config.json").write_text('{"do_sample": false}')
    snapshot = in_the_hubs_cache(folder, tmp_path / "hub")
    assert answer(snapshot) == expected
    blob = (snapshot / "onnx/model.onnx_data").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(InputError, match=r"model.onnx_data: sha256 differs"):
        answer(snapshot)


def test_exact_activations_run_in_the_hubs_cache_too(folder: Path, tmp_path: Path) -> None:
    """The graph is given to onnxruntime as bytes, which then refuses links out of the folder of its weights."""

    def logits(place: Path) -> bytes:
        decoder = Decoder(place, threads=1, exact_activations=True)
        return decoder.forward(np.arange(2, 9)[None], decoder.new_cache(8)).tobytes()

    expected = logits(folder)
    assert logits(in_the_hubs_cache(folder, tmp_path / "hub")) == expected  # which moves the files


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_l15_content_behind_links_and_in_a_hard_linked_backup_runs(
    folder: Path, link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    expected = answer(folder)
    backup = tmp_path / "backup"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        copy = backup / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "q3edge.json":
            shutil.copy(path, copy)
        else:
            link(path, copy)
    assert answer(folder) == answer(backup) == expected


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data"])
def test_a_link_to_other_content_is_not_trusted(folder: Path, name: str, tmp_path: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "other").write_bytes(content)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=f"{name}: sha256 differs"):
        Decoder(folder)


def test_settings_that_onnxruntime_genai_still_has_are_said(folder: Path) -> None:
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    (folder / "genai_config.json").write_text("{}")
    seal(folder)
    with report_to(Listening()):
        (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
        open_artifact(folder)
        assert len(notes) == 2
        assert "genai_config.json still has the settings of the export" in notes[1]
        (folder / "genai_config.json").write_text('{"search": {}}')
        open_artifact(folder)
        (folder / "genai_config.json").unlink()
        open_artifact(folder)
    assert len(notes) == 4


def test_l16_an_edited_template_is_used_and_said_to_be(folder: Path) -> None:
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            if "kernels" not in text:  # of a set that was asked for in the environment and fits nothing here
                notes.append(text)

    with report_to(Listening()):
        before = answer(folder)
        assert notes == []
        (folder / "README.md").write_text("my model")
        assert answer(folder) == before
        assert notes == []
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }} the cat sat on")
        with Model.open(folder) as model:
            assert model.tokenizer.decode(model.encode_chat([{"role": "user", "content": "a"}])) == "a the cat sat on"
        open_artifact(folder)
    assert [note.partition(": ")[2].partition(": ")[2] for note in notes] == [
        "edited since the export, used as it is now: chat_template.jinja"
    ] * 2


def test_a_tokenizer_may_be_put_beside_a_model_exported_without(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    Manifest("onnx", "parent", {}, notices=copy_side_files(tmp_path / "nowhere", folder)).save(folder)
    with pytest.raises(InputError, match=r"tokenizer.json: not found"):
        Model.open(folder)
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    assert answer(folder)


def test_u18_a_file_that_cannot_be_read_is_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuses(path: Path, *rest: int) -> int:
        if str(path).endswith("model.onnx_data"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(InputError, match=r"model.onnx_data: cannot be read \(Permission denied\)"):
        Decoder(folder)
