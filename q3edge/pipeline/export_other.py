"""Checkpoint -> a folder in the format of another program, its codes as they are."""

from __future__ import annotations

from pathlib import Path

from q3edge.artifact import Manifest, manifest_digest, staged_directory
from q3edge.checkpoint.compressed_tensors import QuantizedCheckpoint
from q3edge.exporters.other_formats import WRITERS
from q3edge.formats import OtherFormat
from q3edge.machine.tool_versions import tool_versions
from q3edge.pipeline.export import open_source
from q3edge.quantization.recipe import Recipe


def export_other(
    source: str, output: Path, to: OtherFormat, *, as_float: bool = False, overwrite: bool = False
) -> Manifest:
    """Write a QDIR, or with `as_float` a float MODEL, for other programs into `output`; returns the manifest there.

    UsageError: a float MODEL without `as_float`, or a QDIR with it. InputError: a QDIR that was changed, or that the
    format cannot hold.
    """
    with (
        open_source(source, as_float) as checkpoint,
        staged_directory(output, overwrite=overwrite, inputs=checkpoint.folders) as staging,
    ):
        notices = WRITERS[to].write(checkpoint, staging)
        recipe, parent, before = Recipe((), "float").to_json(), "", checkpoint.notices
        if isinstance(checkpoint, QuantizedCheckpoint):
            made = Manifest.load(checkpoint.folder)
            recipe, parent, before = dict(made.recipe), manifest_digest(checkpoint.folder), made.notices
        size = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        return Manifest(
            "other",
            parent or checkpoint.digest(),
            recipe,
            notices=(*before, *(notice for notice in notices if notice not in before)),
            metrics={"to": to, "model_bytes": size},
            versions=tool_versions("numpy"),
        ).save(staging)
