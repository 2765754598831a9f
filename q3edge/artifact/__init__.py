"""Folders that q3edge writes: complete or absent, with a manifest of every file's size and sha256."""

from q3edge.artifact.files import FileRecord, contained_file, file_record
from q3edge.artifact.folder import staged_directory
from q3edge.artifact.manifest import (
    DATA_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    ArtifactKind,
    Manifest,
    Notice,
    artifact_digest,
    is_sound,
)

__all__ = [
    "DATA_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "SCHEMA_VERSION",
    "ArtifactKind",
    "FileRecord",
    "Manifest",
    "Notice",
    "artifact_digest",
    "contained_file",
    "file_record",
    "is_sound",
    "staged_directory",
]
