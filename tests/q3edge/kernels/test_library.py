"""Loading the library of kernels."""

from __future__ import annotations

import pytest

from q3edge.kernels.library import LIBRARY, Library, library, obstacle


@pytest.mark.skipif(library() is None, reason="the kernels were not built here")
def test_a_library_of_another_version_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update whose kernels were not built anew: its operators may read other inputs."""
    monkeypatch.setattr("q3edge.kernels.library.VERSION", 1)
    with pytest.raises(OSError, match="install q3edge again"):
        Library(LIBRARY)
    assert "another version" in str(obstacle())
