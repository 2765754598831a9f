"""`ContentState`: what tells a file that has not changed, so that a model's files are not hashed at every start.

Kept for each folder: size, times of change, and inode of every file of its content, and the sha256 that each was found
to have. Whoever asks for verification gets it all the same: nothing here is asked then.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q3edge.artifact import EDITABLE_FILES, Manifest
from q3edge.errors import ResourceError
from q3edge.runtime.session.kept_room import make_room
from q3edge.storage.digests import json_digest
from q3edge.storage.kept_folder import ADVICE, kept_folder
from q3edge.storage.sealed_json import read_sealed, write_sealed

FOLDER = "verified"  # of what is kept here, in the folder of what is kept
DAYS = 7  # after which files are hashed again: a disk may lose what it holds without a trace
# Seconds. A file that is written twice within its clock's step (FAT's is 2 s) has the same times after both.
_SETTLED = 2


@dataclass(frozen=True, slots=True)
class ContentState:
    """State of a folder's content at a time, seconds since the epoch.

    files: by name, the sha256 that the manifest has, device, inode, size, and times of change of content and inode, ns.
    """

    folder: Path
    manifest: Manifest
    time: float
    files: dict[str, list[Any]]

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> ContentState:
        """Read the state of content that is there."""
        return cls(folder, manifest, time.time(), _states(folder, manifest))

    def was_verified(self) -> bool:
        """Tell whether this very content was found to be right in the last DAYS."""
        kept = read_sealed(self._path)
        if not isinstance(kept, dict) or kept.get("files") != self.files:
            return False
        age: float = self.time - kept.get("time", math.inf)
        return 0 <= age < DAYS * 24 * 3600

    def keep(self) -> None:
        """Keep that all content was found to be right since it was read, unless it may have changed meanwhile.

        Where nothing can be kept, it is hashed at every start.
        """
        newest = max(max(state[-2:]) for state in self.files.values())
        if newest < (self.time - _SETTLED) * 1e9 and _states(self.folder, self.manifest) == self.files:
            with suppress(ResourceError):
                make_room(FOLDER, self._path)
                write_sealed(self._path, {"time": self.time, "files": self.files}, ADVICE)

    @property
    def _path(self) -> Path:
        return kept_folder(FOLDER) / f"{json_digest(str(self.folder.resolve()))[:32]}.json"


def _states(folder: Path, manifest: Manifest) -> dict[str, list[Any]]:
    found = {}
    for name, record in manifest.files.items():
        if name not in EDITABLE_FILES:
            now = (folder / name).stat()
            found[name] = [record.sha256, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    return found
