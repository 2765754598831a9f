"""What `doctor` and `cache` print. Pure functions: objects in, strings out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from q3edge.cli.layout import table
from q3edge.plain_line import plain_line

if TYPE_CHECKING:
    from q3edge.pipeline.doctor import Diagnosis
    from q3edge.storage.kept_folder import KeptEntry

_NAME = 48  # characters of an entry's name


def diagnosis_text(found: Diagnosis) -> str:
    """Format a diagnosis: the verdict, what is broken, remarks, and a line for each fact."""
    parts = [
        "\n".join([found.verdict, *(f"  broken: {each}" for each in found.problems)]),
        *(["\n".join(f"note: {each}" for each in found.remarks)] if found.remarks else []),
        "\n".join(f"{name}: {value}" for name, value in _facts(found)),
        "\n".join(["kernels of q3edge:", *_kernels(found)]),
        "\n".join(["optional parts:", *_extras(found)]),
    ]
    return "\n\n".join(parts)


def _facts(found: Diagnosis) -> list[tuple[str, str]]:
    cache = found.cache
    kept = ", ".join(f"{kind} {_megabytes(size)} MB" for kind, size in cache.sizes.items())
    return [
        ("q3edge", f"{found.q3edge}, Python {found.python}, {found.system}"),
        ("CPU", found.cpu),
        ("its instruction sets", ", ".join(found.cpu_instruction_sets) or "not known"),
        ("threads of a model", str(found.threads)),
        ("memory", f"{_gigabytes(found.memory)}, {_gigabytes(found.free_memory)} of it free"),
        ("transparent huge pages", found.huge_pages or "not known"),
        ("packages", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("kernels that models run with", found.kernels.used or "none, as chosen"),
        ("cache", f"{cache.folder} ({'can' if cache.writable else 'cannot'} be written): {kept}"),
    ]


def _kernels(found: Diagnosis) -> list[str]:
    if found.kernels.obstacle:
        return [f"  none: {found.kernels.obstacle}"]
    return [
        f"  {test.instruction_set}: "
        + (f"products are right ({test.milliseconds:.1f} ms)" if test.passed else test.problem)
        for test in found.kernels.tests
    ]


def _extras(found: Diagnosis) -> list[str]:
    return [
        f"  {extra.name}: installed"
        if not extra.missing
        else f"  {extra.name}: without {', '.join(extra.missing)}; {extra.install}"
        for extra in found.extras
    ]


def cache_table(entries: Sequence[KeptEntry]) -> str:
    """Format entries of what is kept, a line each, and their sum."""
    rows = [
        (
            f"{entry.kind}/{plain_line(entry.name)[:_NAME]}",
            _megabytes(entry.size),
            _day(entry.used),
            plain_line(entry.of) or "-",
        )
        for entry in entries
    ]
    listed = table(("entry", "MB", "last used", "made of"), rows)
    return f"{listed}\n\nin all: {_megabytes(sum(entry.size for entry in entries))} MB"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _gigabytes(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e9:.1f} GB"
