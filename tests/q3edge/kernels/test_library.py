"""Loading the library of kernels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from q3edge.kernels.library import LIBRARY, Library, library, obstacle

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not built here")


def test_a_library_of_another_version_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update whose kernels were not built anew: its operators may read other inputs."""
    monkeypatch.setattr("q3edge.kernels.library.VERSION", 1)
    with pytest.raises(OSError, match="another version"):
        Library(LIBRARY)
    assert "another version" in str(obstacle())


@pytest.mark.parametrize("damage", ["half", "zeros", "a bit", "no seal", "short", "empty"])
def test_a_damaged_library_is_not_loaded(damage: str, tmp_path: Path) -> None:
    """Loading one that was cut, or that holds nothing for a while, ended the process."""
    content = LIBRARY.read_bytes()
    middle = len(content) // 2
    damaged = {
        "half": content[:middle],
        "zeros": content[: middle // 2] + bytes(middle) + content[middle // 2 + middle :],
        "a bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "no seal": content[:-32],
        "short": content[:100],
        "empty": b"",
    }
    path = tmp_path / LIBRARY.name
    path.write_bytes(damaged[damage])
    with pytest.raises(OSError, match="it is damaged"):
        Library(path)


def test_a_digest_is_of_all_but_the_seal() -> None:
    assert Library(LIBRARY).digest() == hashlib.sha256(LIBRARY.read_bytes()[:-32]).hexdigest()
