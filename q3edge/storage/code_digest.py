"""`code_digest`: which q3edge code computes a thing, so that what is kept is never answered from by other code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(*names: str) -> str:
    """Hex sha256 over the source files of these packages and modules of q3edge ("calibration.layers", "version").

    The same in a checkout and in an installed wheel. ValueError: a name that has no source.
    """
    return digest_of_sources(_PACKAGE, *names)


def digest_of_sources(package: Path, *names: str) -> str:
    """Hex sha256 over names and bytes of the .py files of modules and packages below the folder `package`."""
    digest = hashlib.sha256()
    for place, path in sorted({found for name in names for found in _sources(package, name)}):
        for part in (place.encode(), path.read_bytes()):
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def _sources(package: Path, name: str) -> Iterator[tuple[str, Path]]:
    """(Name relative to `package`, file) of a module, or of every module of a package."""
    place = package.joinpath(*name.split("."))
    module = place.with_name(f"{place.name}.py")
    paths = [module] if module.is_file() else list(place.rglob("*.py"))
    if not paths:
        raise ValueError(f"{name}: no source below {package}; expected a module or package of it")
    return ((path.relative_to(package).as_posix(), path) for path in paths)
