"""Folders that q3edge writes: complete or absent, with a manifest of every file's size and sha256."""

from q3edge.artifact.files import FileRecord, contained_file, file_record, folder_name, hub_id, shown_path
from q3edge.artifact.folder import InputState, staged_directory
from q3edge.artifact.manifest import (
    BEHAVIOUR_FILES,
    DATA_FILE,
    EDITABLE_FILES,
    EXPERT_LOSS,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    ArtifactKind,
    Manifest,
    Notice,
    artifact_digest,
    expert_loss,
    is_sound,
    is_untouched,
    manifest_digest,
)

__all__ = [
    "BEHAVIOUR_FILES",
    "DATA_FILE",
    "EDITABLE_FILES",
    "EXPERT_LOSS",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "SCHEMA_VERSION",
    "ArtifactKind",
    "FileRecord",
    "InputState",
    "Manifest",
    "Notice",
    "artifact_digest",
    "contained_file",
    "expert_loss",
    "file_record",
    "folder_name",
    "hub_id",
    "is_sound",
    "is_untouched",
    "manifest_digest",
    "shown_path",
    "staged_directory",
]
