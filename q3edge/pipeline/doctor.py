"""`examine`: what this machine and installation have, what of it works, and what it comes to in words."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3edge.errors import Q3EdgeError
from q3edge.kernels.choice import chosen_name
from q3edge.kernels.library import PORTABLE, fault, library, obstacle
from q3edge.kernels.self_test import SelfTest, run_self_test
from q3edge.machine.cpu import cpu_name, default_threads, instruction_sets, slow_block_products
from q3edge.machine.extras import EXTRAS, install_line, missing_packages
from q3edge.machine.memory import free_memory, huge_pages, total_memory
from q3edge.machine.tool_versions import tool_versions
from q3edge.storage.kept_folder import KINDS, kept_entries, kept_root
from q3edge.version import VERSION

_PACKAGES = ("onnxruntime", "numpy", "tokenizers", "huggingface-hub")


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Kernels at hand. obstacle: why q3edge's are not; empty: they are. used: by auto or $Q3EDGE_KERNELS; empty: none.

    instruction_sets: that this CPU has and the library has kernels for, the best first.
    """

    obstacle: str
    instruction_sets: tuple[str, ...]
    used: str
    tests: tuple[SelfTest, ...]


@dataclass(frozen=True, slots=True)
class Extra:
    """Optional part: the packages that are missing of it, and the command that installs them."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """Folder of what is kept, whether it can be written, and bytes of each kind in it."""

    folder: str
    writable: bool
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `examine` found. problems: what is broken, a sentence each; remarks: what could be better.

    Memory in bytes, None where the system does not tell; huge_pages: "always", "madvise", "never" or None.
    """

    verdict: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    q3edge: str
    python: str
    system: str
    cpu: str
    cpu_instruction_sets: tuple[str, ...]
    threads: int
    memory: int | None
    free_memory: int | None
    huge_pages: str | None
    versions: Mapping[str, str]
    kernels: KernelFacts
    extras: tuple[Extra, ...]
    cache: CacheFacts

    def to_json(self) -> dict[str, Any]:
        """JSON object of plain values."""
        return asdict(self)


def examine() -> Diagnosis:
    """Look at this machine and installation; computes small products with each set of kernels, in a process apart."""
    versions, problems = tool_versions(*_PACKAGES), []
    try:
        import onnxruntime

        if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
            problems.append("onnxruntime has no CPU provider; install the package onnxruntime")
    except ImportError as error:
        problems.append(f"onnxruntime cannot be imported ({error}); install it again: pip install onnxruntime")
    kernels, wrong = _kernels()
    cache = _cache()
    problems += wrong
    if not cache.writable:
        problems.append(f"{cache.folder} cannot be written: set Q3EDGE_CACHE to a folder that can")
    remarks = _remarks(kernels)
    return Diagnosis(
        verdict=_verdict(problems, kernels),
        problems=tuple(problems),
        remarks=remarks,
        q3edge=VERSION,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_instruction_sets=instruction_sets(),
        threads=default_threads(),
        memory=total_memory(),
        free_memory=free_memory(),
        huge_pages=huge_pages(),
        versions=versions,
        kernels=kernels,
        extras=tuple(Extra(name, missing_packages(name), install_line(name)) for name in EXTRAS),
        cache=cache,
    )


def _verdict(problems: list[str], kernels: KernelFacts) -> str:
    if problems:
        return f"{'Something is' if len(problems) == 1 else f'{len(problems)} things are'} broken."
    return f"All that is needed works; models run with the kernels of {kernels.used}."


def _kernels() -> tuple[KernelFacts, list[str]]:
    """Kernels, and what is wrong with them: a library that is there and does not work, or a choice that cannot be."""
    found, problems = library(), list[str]()
    if broken := fault():
        problems.append(broken)
    tests = () if found is None else run_self_test(found)
    problems += [f"kernels {test.instruction_set}: {test.problem}" for test in tests if not test.passed]
    try:
        used = chosen_name()
    except Q3EdgeError as error:  # of the environment variable
        used = ""
        problems.append(str(error))
    sets = () if found is None else found.instruction_sets
    return KernelFacts(obstacle() or "", sets, used, tests), problems


def _remarks(kernels: KernelFacts) -> tuple[str, ...]:
    found = []
    if kernels.obstacle and not fault():
        found.append(f"{kernels.obstacle}: pip builds it where there is a C++ compiler; onnxruntime's kernels are used")
    if kernels.instruction_sets == (PORTABLE,):
        found.append("q3edge has no fast kernels for this CPU, only portable ones: auto takes onnxruntime's")
    if slow := slow_block_products():
        found.append(slow)
    return tuple(found)


def _cache() -> CacheFacts:
    root = kept_root()
    sizes = {kind: sum(entry.size for entry in kept_entries(kind)) for kind in KINDS}
    return CacheFacts(str(root), _can_be_written(root), sizes)


def _can_be_written(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or the folder itself."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False
