"""Versions of installed packages. A module of its own, because importlib.metadata is slow to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named packages, for the manifest."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
