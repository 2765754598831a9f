"""Tasks of this repository: `nox -f tools/noxfile.py -l` lists them, `-s NAME` runs one.

They run in the environment that is active, which `pip install -e '.[dev]'` makes: none is made anew, as torch would be
downloaded each time.
"""

from __future__ import annotations

from pathlib import Path

import nox
import nox.command

ROOT = Path(__file__).resolve().parent.parent
CHECKS = ("pytest", "tests/test_quality.py")  # ruff, the format, mypy and the import rules
DOCS = ("mkdocs", "build", "--quiet", "--strict", "--config-file", "tools/mkdocs.yml")
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # the theme's note about a successor of mkdocs

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "fast"]


@nox.session
def check(session: nox.Session) -> None:
    """Check style, types, import rules and docs; what is wrong is reported together, at the end."""
    session.chdir(ROOT)
    failed = [command[0] for command in (CHECKS, DOCS) if not _passes(session, command)]
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def fix(session: nox.Session) -> None:
    """Repair what ruff can repair, and format."""
    session.chdir(ROOT)
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def test(session: nox.Session) -> None:
    """Run every test; arguments behind -- go to pytest."""
    session.chdir(ROOT)
    session.run("pytest", *session.posargs)


@nox.session
def fast(session: nox.Session) -> None:
    """Run the tests that are not marked slow."""
    session.chdir(ROOT)
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session
def arm(session: nox.Session) -> None:
    """Run the embedded model on emulated Arm CPUs; the emulator and its Python are downloaded into build/arm."""
    session.chdir(ROOT)
    session.run("pytest", "-m", "arm", "tests/arm", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run the long counts of damaged inputs; arguments behind -- go to pytest."""
    session.chdir(ROOT)
    session.run("pytest", "tests/fuzz", *session.posargs, env={"Q3EDGE_FUZZ": "long"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of docs/ into build/site; a warning is an error."""
    session.chdir(ROOT)
    session.run(*DOCS, env=QUIET)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run every test and measure which lines and branches run; the pages lie in build/coverage."""
    session.chdir(ROOT)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-n", "0", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--quiet")
    session.run("coverage", "report")


def _passes(session: nox.Session, command: tuple[str, ...]) -> bool:
    try:
        session.run(*command, env=QUIET)
    except nox.command.CommandFailed:
        return False
    return True
