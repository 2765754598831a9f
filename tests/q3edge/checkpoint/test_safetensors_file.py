"""The file format: what is read and written equals the safetensors library; every defect is one clear InputError."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from q3edge.checkpoint.safetensors.file import SafetensorsFile
from q3edge.checkpoint.safetensors.writer import SafetensorsWriter, bfloat16_bits
from q3edge.errors import InputError

FILE_FIXTURE = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with an arbitrary header: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path) -> str:
    """The message of the InputError; always one line that names the file."""
    with pytest.raises(InputError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of the safetensors library with every dtype that is read."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 5, generator=generator)
    tensors = {
        "bf16": values.bfloat16(), "f16": values.half(), "f32": values, "scalar": torch.tensor(2.5),
        "i32": torch.arange(6, dtype=torch.int32).reshape(3, 2), "i64": torch.tensor([7, 5]),
        "u8": torch.arange(4, dtype=torch.uint8), "i8": torch.tensor([[-128], [127]], dtype=torch.int8),
        "empty": torch.zeros(0, 5),
    }  # fmt: skip
    path = tmp_path / "sample.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    return path, tensors


def test_reads_what_the_library_wrote(sample: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = sample
    file = SafetensorsFile(path)
    assert set(file.entries) == set(tensors)
    for name, tensor in tensors.items():
        if name == "bf16":
            assert_array_equal(file.read(name), tensor.view(torch.uint16).numpy())
        else:
            assert_array_equal(file.read(name), tensor.numpy(), strict=True)
        if tensor.is_floating_point():
            assert_array_equal(file.read_float(name), tensor.float().numpy(), strict=True)


@FILE_FIXTURE
@given(start=st.integers(-9, 9), stop=st.integers(-9, 9) | st.none())
def test_any_row_range(sample: tuple[Path, dict[str, torch.Tensor]], start: int, stop: int | None) -> None:
    path, tensors = sample
    file = SafetensorsFile(path)
    rows = slice(start, stop)
    assert_array_equal(file.read_float("bf16", rows), tensors["bf16"].float().numpy()[rows], strict=True)
    assert_array_equal(file.read("i32", rows), tensors["i32"].numpy()[rows], strict=True)


def test_a_tensor_of_several_blocks(tmp_path: Path) -> None:
    values = torch.randn(700, 1000, generator=torch.Generator().manual_seed(1)).bfloat16()
    safetensors.torch.save_file({"w": values}, tmp_path / "m.safetensors")
    file = SafetensorsFile(tmp_path / "m.safetensors")
    assert_array_equal(file.read_float("w", slice(3, 699)), values[3:699].float().numpy())


def test_only_the_rows_asked_for_are_in_memory(tmp_path: Path) -> None:
    rows, width = 16_000, 1_024  # 32 MB on disk, 64 MB as float32
    block = np.zeros((1_000, width), np.uint16)
    tracemalloc.start()
    with SafetensorsWriter(tmp_path / "m.safetensors", {"w": ("BF16", (rows, width))}, {}) as writer:
        for _ in range(rows // len(block)):
            writer.append("w", block)
    file = SafetensorsFile(tmp_path / "m.safetensors")
    for start in range(0, rows, 1_000):
        file.read_float("w", slice(start, start + 1_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 1_000 * width + 1_500_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_nan_and_infinity_are_counted_and_named(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.ones(600, 600, dtype=dtype)
    values[0, 0], values[500, 7], values[599, 599] = float("nan"), float("inf"), float("-inf")
    safetensors.torch.save_file({"w": values}, tmp_path / "m.safetensors")
    file = SafetensorsFile(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"m.safetensors \(w\): 3 of 360000 values are NaN or infinite"):
        file.read_float("w")
    with pytest.raises(InputError, match="1 of 600 values"):
        file.read_float("w", slice(500, 501))
    assert file.read_float("w", slice(1, 500)).all()


def test_unsupported_dtypes_are_refused_by_name_when_asked_for(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"wide": np.ones(3), "codes": np.ones(3, np.int32)}, tmp_path / "m.safetensors")
    file = SafetensorsFile(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"\(wide\): dtype F64; supported: BF16, F16, F32, I32"):
        file.read("wide")
    with pytest.raises(InputError, match=r"\(codes\): dtype I32; expected one of BF16, F16, F32"):
        file.read_float("codes")


def test_file_cut_while_open(sample: tuple[Path, dict[str, torch.Tensor]]) -> None:
    file = SafetensorsFile(sample[0])
    with sample[0].open("r+b") as handle:
        handle.truncate(file.size - 30)
    with pytest.raises(InputError, match="became shorter"):
        [file.read(name) for name in file.entries]


# --- bad inputs 1-5 ---


def test_bad_input_1_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").touch()
    assert "empty file" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>404</title>", b"\n <html><body>Sign in</body></html>"])
def test_bad_input_1_html_page(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(page)
    assert "an HTML page, not the weights" in refusal(tmp_path / "m.safetensors")


def test_bad_input_1_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1503300328\n"
    (tmp_path / "m.safetensors").write_bytes(pointer)
    assert "Git-LFS pointer" in refusal(tmp_path / "m.safetensors")


def test_bad_input_1_other_things(tmp_path: Path) -> None:
    assert "not found" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "cannot be read (Is a directory)" in refusal(tmp_path / "folder.safetensors")
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    assert "expected at least 8 bytes, found 3" in refusal(tmp_path / "m.safetensors")


def test_bad_input_2_truncated(sample: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = sample
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert f"truncated, expected {len(whole)} bytes, found {len(whole) - 1}" in refusal(path)
    path.write_bytes(whole[:100])
    assert "the header alone needs" in refusal(path)
    path.write_bytes(whole + b"x")
    assert "1 bytes after the last tensor" in refusal(path)


@pytest.mark.parametrize(
    ("length", "message"),
    [(2**63, "header length 9223372036854775808 bytes"), (100_000_001, "header length 100000001 bytes"),
     (99_000_000, "the header alone needs 99000008 bytes, found 1008")],
)  # fmt: skip
def test_bad_input_3_header_length(tmp_path: Path, length: int, message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(length.to_bytes(8, "little") + b"{" * 1000)
    assert message in refusal(tmp_path / "m.safetensors")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_bad_input_3_uses_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:  # sparse: the 200 MB header would be there to read
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    script = (  # VmHWM, since getrusage's peak would include the process that started this one
        "import sys\nfrom pathlib import Path\nfrom q3edge.checkpoint.safetensors.file import SafetensorsFile\n"
        "try: SafetensorsFile(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__)\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    kind, peak_kib = result.stdout.split()
    assert kind == "InputError"
    assert int(peak_kib) * 1024 < 100_000_000


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, "(b): overlaps the tensor before it"),
        ({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, "(b): overlaps the tensor before it"),
        ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, "(b): leaves a hole before it, data starts at 8, expected 4"),
        ({"a": entry(4, 12, [2])}, "(a): leaves a hole before it, data starts at 4, expected 0"),
        ({"a": entry(0, 12, [2, 2])}, "(a): shape [2, 2] x F32 needs 16 bytes, data_offsets give 12"),
        ({"a": entry(0, 12, [-3, -1])}, "(a): shape [-3, -1]: expected a list of non-negative integers"),
        ({"a": entry(0, 12, [3.0])}, "(a): shape [3.0]"),
        ({"a": entry(0, 4, [True])}, "(a): shape [true]"),
        ({"a": entry(0, 12, [2**63, 4])}, "(a): shape [9223372036854775808, 4]"),
        ({"a": entry(0, 12, [2**62, 2**62])}, "(a): shape"),
        ({"a": entry(0, 12, [1] * 100)}, "(a): shape"),
        ({"a": entry(12, 0, [3])}, "(a): data_offsets [12, 0]"),
        ({"a": entry(0, 12, [3], "F33")}, '(a): dtype "F33": not a dtype of safetensors'),
        ({"a": {"dtype": "F32", "shape": [3]}}, "(a): header entry"),
        ({"a": 5}, "(a): header entry 5"),
        ({"__metadata__": {"x": 1}}, "__metadata__"),
        ([1], "not a JSON object"),
        (b"{nonsense}", "not valid JSON"),
        (b"\xff\xfe", "not a JSON object"),
        (b'{"a":\xff}', "not valid JSON"),
        (b'{"__metadata__":{"a":"\\ud83d"}}', "not valid JSON"),
        (b'{"a":' + b"[" * 200_000, "not valid JSON"),
    ],
)
def test_bad_input_4_header_content(tmp_path: Path, header: object, message: str) -> None:
    assert message in refusal(write_raw(tmp_path / "m.safetensors", header, bytes(12)))


def test_bad_input_5_duplicate_key(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4, [1]))
    path = write_raw(tmp_path / "m.safetensors", f'{{"w": {one}, "w": {one}}}'.encode(), bytes(4))
    assert "has the key 'w' twice" in refusal(path)
    path = write_raw(path, b'{"w": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}', bytes(4))
    assert "has the key 'dtype' twice" in refusal(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
odd_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F4", "X"]) | json_values,
        "shape": st.lists(st.integers(-2, 2**64) | st.integers(0, 3), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-1, 20), max_size=3) | json_values,
    },
)


@FILE_FIXTURE
@given(header=st.binary(max_size=60) | st.dictionaries(st.text(max_size=3), odd_entries | json_values, max_size=3))
def test_arbitrary_headers_give_a_file_or_an_input_error(tmp_path: Path, header: object) -> None:
    path = write_raw(tmp_path / "m.safetensors", header, bytes(16))
    try:
        file = SafetensorsFile(path)
        for name in file.entries:
            file.read_float(name)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@FILE_FIXTURE
@given(data=st.data())
def test_damaged_files_give_a_file_or_an_input_error(
    sample: tuple[Path, dict[str, torch.Tensor]], data: st.DataObject
) -> None:
    path = sample[0].with_name("damaged.safetensors")
    content = bytearray(sample[0].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        file = SafetensorsFile(path)
        for name in file.entries:
            file.read(name)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


# --- writing ---


@FILE_FIXTURE
@given(data=st.data())
def test_the_library_reads_what_is_written_in_any_interleaving(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w.safetensors"
    path.unlink(missing_ok=True)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays: dict[str, Any] = {}
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, dtype in enumerate(
        data.draw(st.lists(st.sampled_from(["F32", "F16", "I64", "I32", "U8"]), min_size=1))
    ):
        shape = (data.draw(st.integers(0, 9)), data.draw(st.integers(1, 3)))
        numpy_dtype = {"F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "U8": "u1"}[dtype]
        arrays[f"t{number}"] = random.integers(0, 100, shape).astype(numpy_dtype)
        entries[f"t{number}"] = (dtype, shape)
    with SafetensorsWriter(path, entries, {"format": "pt"}) as writer:
        left = {name: array for name, array in arrays.items() if len(array)}
        while left:
            name = data.draw(st.sampled_from(sorted(left)))
            count = data.draw(st.integers(1, len(left[name])))
            writer.append(name, left[name][:count])
            left[name] = left[name][count:]
            if not len(left[name]):
                del left[name]
    loaded = safetensors.numpy.load_file(path)
    ours = SafetensorsFile(path)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert_array_equal(loaded[name], array, strict=True)
        assert_array_equal(ours.read(name), array, strict=True)
        assert ours.entries[name].offset % array.dtype.itemsize == 0
    with safetensors.safe_open(path, "np") as handle:
        assert handle.metadata() == {"format": "pt"}


def test_bfloat16_bits_round_as_torch_does() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=5000), [0.0, -0.0, 1.00390625, 1.01171875, 3.3e38]]).astype(np.float32)
    assert_array_equal(bfloat16_bits(values), torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "w.safetensors", {"a": ("F32", (3, 2)), "b": ("U8", (1,))}, {})
    with pytest.raises(ValueError, match="does not fit"):
        writer.append("a", np.zeros((1, 2), np.float64))
    with pytest.raises(ValueError, match="does not fit"):
        writer.append("a", np.zeros((1, 3), np.float32))
    writer.append("a", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="more rows"):
        writer.append("a", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="2 tensors are incomplete, the first is a"):
        writer.close()


def test_the_writer_replaces_no_file_and_keeps_the_first_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(KeyError), SafetensorsWriter(path, {"a": ("U8", (1,))}, {}) as writer:
        writer.append("other", np.zeros(1, np.uint8))
    with pytest.raises(FileExistsError):
        SafetensorsWriter(path, {}, {})
