"""`code_digest`: digest of the q3edge code that computes a result, so that other code never reuses a stored one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from q3edge.storage.digests import parts_digest

_PACKAGE = Path(__file__).parents[1]


@cache
def code_digest(*names: str) -> str:
    """Digest, hex sha256, of the source files of packages and modules of q3edge ("calibration.layers", "version").

    The same in a checkout and in an installed wheel. ValueError: a name that has no source.
    """
    return digest_of_sources(_PACKAGE, *names)


def digest_of_sources(package: Path, *names: str) -> str:
    """Digest, hex sha256, of names and bytes of the .py files of modules and packages below the folder `package`."""
    sources = sorted({found for name in names for found in _sources(package, name)})
    return parts_digest(part for place, path in sources for part in (place.encode(), path.read_bytes()))


def _sources(package: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Find the sources of a module or package: (path relative to `package`, file) of each."""
    place = package.joinpath(*name.split("."))
    module = place.with_name(f"{place.name}.py")
    paths = [module] if module.is_file() else list(place.rglob("*.py"))
    if not paths:
        raise ValueError(f"{name}: no source below {package}; expected a module or package of it")
    return ((path.relative_to(package).as_posix(), path) for path in paths)
