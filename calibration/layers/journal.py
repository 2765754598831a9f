"""The durable side of a long calibration: finished layers, the latest hidden states, and who works on them.

A work folder lies beside the output until the output is complete. Whatever is in it was written whole (to another name,
flushed, renamed), so a process killed anywhere can be followed by another that goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from q3edge.calibration.layers.rounded import LayerResult, Reconstruction
from q3edge.calibration.layers.stage import TensorReport
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.json_files import read_json_object

_INPUTS_FILE = "inputs.json"
_LOCK_FILE = "lock"
_DIGEST = 32  # bytes of sha256 before the arrays
_PARTS = ("codes", "scales", "zero_points")


class Journal:
    """The work folder of one calibration; use as a context manager, which holds its lock.

    inputs: whatever decides the result, name -> a digest or value. UsageError: the folder belongs to a run with other
    inputs; the message says which. ResourceError: another process works on it; the message says which.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str], *, restart: bool = False) -> None:
        self.folder = folder
        self._inputs = dict(inputs)
        self._restart = restart
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise ResourceError(f"{self.folder}: cannot be written ({error.strerror}); choose another disk") from error
        try:
            if self._restart:
                self._clear()
            self._check_inputs()
        except BaseException:
            self._release_lock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._release_lock()

    def load(self, layer: int, schemes: Mapping[str, Scheme | None]) -> LayerResult | None:
        """A finished layer; None where there is none, or its file is damaged and has to be made again."""
        path = self._layer_file(layer)
        if not path.exists():
            return None
        with path.open("rb") as file:
            sound = file.read(_DIGEST) == hashlib.file_digest(file, "sha256").digest()
            if sound:
                file.seek(_DIGEST)
                with np.load(file, allow_pickle=False) as archive:
                    arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
        if not sound:
            path.unlink()
            return None
        return _result(arrays, json.loads(arrays.pop("notes").tobytes()), schemes)

    def save(self, layer: int, result: LayerResult) -> None:
        """Make a finished layer durable."""
        arrays: dict[str, NDArray[Any]] = dict(result.floats)
        for name, tensor in result.tensors.items():
            for part in _PARTS:
                if (values := getattr(tensor, part)) is not None:
                    arrays[f"{name}:{part}"] = values
        reports = {name: report.to_json() for name, report in result.reports.items()}
        reconstruction = None if result.reconstruction is None else asdict(result.reconstruction)
        notes = json.dumps({"reports": reports, "reconstruction": reconstruction})
        arrays["notes"] = np.frombuffer(notes.encode(), np.uint8)

        def write(file: BufferedRandom) -> None:
            file.write(bytes(_DIGEST))
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes **arrays for its own flag
            file.seek(_DIGEST)
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            file.write(digest)

        self._write(self._layer_file(layer), write)

    def finished_layers(self) -> list[int]:
        """Numbers of the layers that have a file, sound or not."""
        return sorted(int(path.stem.partition("-")[2]) for path in self.folder.glob("layer-*.bin"))

    def store(self, name: str, values: object) -> None:
        """Make a JSON value durable."""
        self._write_bytes(self.folder / f"{name}.json", json.dumps(values).encode())

    def recall(self, name: str) -> Any:
        """The value that was stored; None where there is none."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def _layer_file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04}.bin"

    def _check_inputs(self) -> None:
        path = self.folder / _INPUTS_FILE
        if not path.exists():
            self._clear()
            self._write_bytes(path, json.dumps(self._inputs, indent=1, sort_keys=True).encode())
            return
        try:
            earlier = read_json_object(path)
        except InputError:
            earlier = {}
        if changed := sorted(key for key in {*earlier, *self._inputs} if earlier.get(key) != self._inputs.get(key)):
            raise UsageError(
                f"{self.folder}: an unfinished run lies there, made from other inputs: {', '.join(changed)} changed; "
                "repeat that run's command to finish it, or add --restart to begin anew"
            )

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK_FILE:
                path.unlink()

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 64, 0).decode(errors="replace").strip() or "another process"
            self._release_lock()
            raise ResourceError(f"{self.folder}: {owner} is working on this output; wait for it or stop it") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()}".encode(), 0)

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write_bytes(self, path: Path, content: bytes) -> None:
        self._write(path, lambda file: file.write(content))

    def _write(self, path: Path, write: Callable[[BufferedRandom], object]) -> None:
        partial = path.with_name(path.name + ".partial")
        with partial.open("w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _result(
    arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, Any], schemes: Mapping[str, Scheme | None]
) -> LayerResult:
    tensors = {}
    for key in arrays:
        name, _, part = key.partition(":")
        scheme = schemes[name]
        if part == "codes" and scheme is not None:
            tensors[name] = QuantizedTensor(
                arrays[key], arrays[f"{name}:scales"], arrays.get(f"{name}:zero_points"), scheme
            )
    floats = {key: values for key, values in arrays.items() if ":" not in key}
    reports = {
        name: TensorReport(**{**fields, "scheme": Scheme(**fields["scheme"])})
        for name, fields in notes["reports"].items()
    }
    found = notes["reconstruction"]
    return LayerResult(tensors, floats, reports, None if found is None else Reconstruction(**found))
