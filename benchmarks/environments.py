"""The environments of peers: benchmarks/peers/PEER.txt says what is in one, make_env.sh makes it."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import measure

PEER_FOLDER = Path(__file__).resolve().parent / "peers"


def make(peer: str, envs: Path) -> None:
    """Make `envs`/PEER unless it is there; what goes wrong is told and stays in PEER.log."""
    if (envs / peer / "made").exists():
        return
    envs.mkdir(parents=True, exist_ok=True)
    try:
        measure([["bash", str(PEER_FOLDER / "make_env.sh"), peer, str(envs / peer)]], envs / f"{peer}.log")
    except SystemExit as error:
        print(error, file=sys.stderr, flush=True)
        return
    (envs / peer / "made").touch()


def python_of(peer: str, envs: Path, log: Path) -> str:
    """Its interpreter. SystemExit, and a line in `log`, if there is none."""
    python = envs / peer / "bin" / "python"
    if not python.exists():
        log.write_text(f"no environment {peer}; --make-envs makes it\n")
        raise SystemExit(1)
    return str(python)


def last_line(log: Path) -> str:
    """What a failed tool said last, fit for a cell of a table; "not run" if nothing."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][-200:].replace("|", "/") if said else "not run"
