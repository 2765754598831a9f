"""Work folder of a long calibration: finished layers, the latest hidden states, and a lock.

It lies beside the output until the output is complete. Results in it are written whole and carry checksums, so after a
process was killed anywhere another can continue where it stopped, and a damaged file is made again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from q3edge.calibration.layers.input_group import TensorReport
from q3edge.calibration.layers.rounded import ExpertsReport, LayerResult, ReconstructionReport
from q3edge.errors import InputError, ResourceError, UsageError
from q3edge.quantization.scheme import Scheme
from q3edge.quantization.tensor import QuantizedTensor
from q3edge.storage.array_file import DamagedFileError, read_arrays, read_note, write_arrays
from q3edge.storage.json_files import read_json_object
from q3edge.storage.locks import hold
from q3edge.storage.sealed_json import read_sealed, write_sealed
from q3edge.storage.whole_files import remove_all_leftovers, write_whole

_INPUTS_FILE = "inputs.json"
_LOCK_FILE = "lock"
_LAYER_FILE = re.compile(r"layer-(\d{4,})\.bin")
_PARTS = ("codes", "scales", "zero_points")
_ADVICE = "free space or choose another disk"
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """A finished layer without its weights; floats: names of the float tensors that changed by folding or training."""

    reports: Mapping[str, TensorReport]
    reconstruction: ReconstructionReport | None
    experts: ExpertsReport | None
    floats: tuple[str, ...]


class WorkFolder:
    """The work folder of one calibration; use as a context manager, which holds its lock.

    inputs: everything that determines the result, name -> a digest or value. UsageError: the folder belongs to a run
    with other inputs; the message says which. ResourceError: another process works on it, which the message names, or
    it cannot be written.
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
            remove_all_leftovers(self.folder)
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

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a work folder; one that is not there, or that another process works in, stays as it is."""
        with suppress(OSError, ResourceError):
            lock = hold(folder / _LOCK_FILE, folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def finished(self, layer: int) -> LayerSummary | None:
        """Summary of a finished layer, without reading its arrays; None where there is none, or its file is damaged."""
        found = self._sound(layer, lambda path: (None, read_note(path)))
        return None if found is None else _summary(found[1])

    def load(self, layer: int, schemes: Mapping[str, Scheme | None]) -> LayerResult | None:
        """Read a finished layer; None where there is none, or its file is damaged and has to be made again."""
        found = self._sound(layer, read_arrays)
        return None if found is None else _result(*found, schemes)

    def save(self, layer: int, result: LayerResult) -> None:
        """Store a finished layer durably."""
        arrays: dict[str, NDArray[Any]] = dict(result.floats)
        for name, tensor in result.tensors.items():
            for part in _PARTS:
                if (values := getattr(tensor, part)) is not None:
                    arrays[f"{name}:{part}"] = values
        reports = {name: report.to_json() for name, report in result.reports.items()}
        note = {
            "layer": layer,
            "reports": reports,
            "reconstruction": None if result.reconstruction is None else asdict(result.reconstruction),
            "experts": None if result.experts is None else asdict(result.experts),
            "floats": list(result.floats),
        }
        write_arrays(self._layer_file(layer), arrays, note, _ADVICE)

    def finished_layers(self) -> list[int]:
        """Numbers of the layers that have a file, sound or not."""
        return sorted(int(found[1]) for path in self.folder.glob("*") if (found := _LAYER_FILE.fullmatch(path.name)))

    def store(self, name: str, values: object) -> None:
        """Store a JSON value durably under a name."""
        write_sealed(self.folder / f"{name}.json", values, _ADVICE)

    def recall(self, name: str) -> Any:
        """Read the JSON value stored under a name; None where there is none, or its file is damaged."""
        return read_sealed(self.folder / f"{name}.json")

    def _layer_file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04}.bin"

    def _sound(self, layer: int, read: Callable[[Path], tuple[Found, Any]]) -> tuple[Found, Any] | None:
        """Read a layer's file; None where there is none, or it is damaged or another layer's: then it is removed.

        read: returns what it holds and its note.
        """
        path = self._layer_file(layer)
        try:
            found, note = read(path)
            if note["layer"] != layer:
                raise DamagedFileError(f"{path}: holds layer {note['layer']}")
        except FileNotFoundError:
            return None
        except DamagedFileError:
            path.unlink()
            return None
        except OSError as error:
            message = f"{path}: cannot be read ({error.strerror}); move it away or add --restart"
            raise ResourceError(message) from error
        return found, note

    def _check_inputs(self) -> None:
        path = self.folder / _INPUTS_FILE
        if not path.exists():
            self._clear()
            write_whole(path, json.dumps(self._inputs, indent=1, sort_keys=True), _ADVICE)
            return
        try:
            earlier = read_json_object(path)
        except InputError:
            earlier = {}
        if changed := sorted(key for key in {*earlier, *self._inputs} if earlier.get(key) != self._inputs.get(key)):
            raise UsageError(
                f"{self.folder}: an unfinished run lies there, made from other inputs: {', '.join(changed)} changed; "
                "repeat that run's command, with the q3edge that began it, to finish it, or add --restart to begin anew"
            )

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK_FILE:
                path.unlink()

    def _take_lock(self) -> None:
        self._lock = hold(self.folder / _LOCK_FILE, self.folder)

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _summary(note: Mapping[str, Any]) -> LayerSummary:
    trained, experts = note["reconstruction"], note["experts"]
    return LayerSummary(
        reports={
            name: TensorReport(**{**fields, "scheme": Scheme(**fields["scheme"])})
            for name, fields in note["reports"].items()
        },
        reconstruction=None if trained is None else ReconstructionReport(**trained),
        experts=None if experts is None else ExpertsReport(tuple(experts["tokens"]), experts["agreement"]),
        floats=tuple(note["floats"]),
    )


def _result(
    arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any], schemes: Mapping[str, Scheme | None]
) -> LayerResult:
    tensors = {}
    for key in arrays:
        name, _, part = key.partition(":")
        scheme = schemes[name]
        if part == "codes" and scheme is not None:
            tensors[name] = QuantizedTensor(
                arrays[key], arrays[f"{name}:scales"], arrays.get(f"{name}:zero_points"), scheme
            )
    summary = _summary(note)
    floats = {name: arrays[name] for name in summary.floats}
    return LayerResult(tensors, floats, summary.reports, summary.reconstruction, summary.experts)
