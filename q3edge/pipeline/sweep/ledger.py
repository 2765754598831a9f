"""`Ledger`: record of the finished variants of a sweep and the request that each was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from q3edge import progress
from q3edge.artifact import MANIFEST_FILE, file_record, is_sound, manifest_digest
from q3edge.calibration.data.files import built_in_sources
from q3edge.errors import InputError, UsageError
from q3edge.pipeline.quantize.calibrate import CalibrationOptions
from q3edge.pipeline.sweep.variants import VariantRequest
from q3edge.storage.code_digest import code_digest
from q3edge.storage.digests import json_digest
from q3edge.storage.regular_files import read_regular
from q3edge.storage.whole_files import write_whole

SWEEP_FILE = "sweep.json"
_CODE = (  # modules that decide an artifact's bytes, besides its request
    "architecture", "artifact", "calibration", "checkpoint", "exporters", "pipeline.build", "pipeline.export",
    "pipeline.quantize", "quantization", "reference", "storage",
)  # fmt: skip


class Ledger:
    """Record in OUT/sweep.json: for each finished variant the digest of its request, and of its manifest then.

    A manifest alone is not enough: it names the quantized checkpoint that the artifact came from, not the model, and
    not the text it was calibrated on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / SWEEP_FILE
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is not a folder; choose another output")
        if folder.is_dir() and any(folder.iterdir()) and not self._path.exists():
            raise UsageError(f"{folder}: is not empty and no sweep made it; choose another output")
        self._finished: dict[str, dict[str, str]] = self._read()
        self._write()

    def knows(self, name: str) -> bool:
        """Tell whether a sweep here has begun or finished this variant, for any request."""
        return name in self._finished

    def begin(self, names: Iterable[str]) -> None:
        """Record variants before their folders appear, so that after a kill the next sweep may replace them."""
        self._finished |= {name: {"request": "", "artifact": ""} for name in names}
        self._write()

    def is_finished(self, name: str, request: str) -> bool:
        """Tell whether the variant's folder was made for exactly this request and is unchanged; reads all of it."""
        entry = self._finished.get(name)
        manifest = self._folder / name / MANIFEST_FILE
        if not (
            entry
            and entry["request"] == request
            and manifest.is_file()
            and manifest_digest(self._folder / name) == entry["artifact"]
        ):
            return False
        if not (sound := is_sound(self._folder / name)):
            progress.note(f"{name}: a file in it was changed or damaged, built again")
        return sound

    def finish(self, name: str, request: str) -> None:
        """Record that the variant's folder is complete."""
        self._finished[name] = {"request": request, "artifact": manifest_digest(self._folder / name)}
        self._write()

    def _read(self) -> dict[str, dict[str, str]]:
        if not self._path.exists():
            return {}
        try:
            raw = json.loads(read_regular(self._path))
            if raw.get("sha256", (found := json_digest(raw["variants"]))) != found:  # without: an earlier q3edge's
                raise ValueError("its content differs from its sha256")
            return {str(n): {key: str(e[key]) for key in ("request", "artifact")} for n, e in raw["variants"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self._path}: damaged ({error}); remove it and the folders beside it") from None

    def _write(self) -> None:
        raw = {"variants": self._finished, "sha256": json_digest(self._finished)}
        write_whole(self._path, json.dumps(raw, indent=1) + "\n")


def request_digest(model_digest: str, asked: VariantRequest, calibration: CalibrationOptions | None) -> str:
    """Digest (hex sha256) of everything that decides an artifact's bytes, except versions of libraries."""
    used: dict[str, Any] = asdict(calibration or CalibrationOptions())
    used["texts"] = [_digest_of(path) for path in used["texts"]] or _built_in_digests()
    raw = {
        "model": model_digest,
        "recipe": asked.recipe.to_json() if asked.recipe else None,
        "budget": asdict(asked.budget) if asked.budget else None,
        "experts_per_token": asked.experts_per_token,
        "calibration": {name: value for name, value in used.items() if name not in ("restart", "budget")},
        "code": code_digest(*_CODE),
    }
    return json_digest(raw)


def _built_in_digests() -> dict[str, str]:
    return {source.name: hashlib.sha256(source.content).hexdigest() for source in built_in_sources()}


def _digest_of(path: Path) -> Mapping[str, str]:
    """Hex sha256 of a file, or of every file below a folder, by relative path."""
    if not path.exists():
        raise InputError(f"{path}: not found; expected calibration text")
    if path.is_file():
        return {path.name: file_record(path).sha256}
    return {p.relative_to(path).as_posix(): file_record(p).sha256 for p in sorted(path.rglob("*")) if p.is_file()}
