"""Which runtimes read the folders that q3edge writes, and do they answer as it does: one table, runtime x format.

    python benchmarks/interop/run.py [--work build/interop] [--only GLOB ...] [--format GLOB ...] [--again]

Builds the embedded model in every format of `q3edge build`, answers seven prompts by `q3edge run --temperature 0
--no-speculate`, makes an environment for each runtime below WORK, lets each answer the same prompts, and prints the
table; WORK/table.md and WORK/table.json hold it too. --only chooses runtimes, --format formats; the other cells stay as
an earlier run left them. --again builds the folders anew, which a change to q3edge needs. What a runtime printed is in
WORK/logs. Exit code 1: a chosen cell failed, or parts from q3edge by more than the folder's stated KL.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from folders import FOLDERS, Folder
from readers import READERS, NotInstalledError, Reader
from readings import Reading, read
from table import table

from q3edge.formats import FLOAT

sys.path.append(str(Path(__file__).resolve().parents[1]))
from choice import chosen
from machine import machine, machine_line

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 600  # for one runtime and format


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "interop")
    parser.add_argument("--only", nargs="+", metavar="GLOB")
    parser.add_argument("--format", nargs="+", metavar="GLOB")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    names = chosen([reader.name for reader in READERS], arguments.only)
    formats = [name for name in FOLDERS if name in chosen(list(FOLDERS), arguments.format)]
    work: Path = arguments.work
    (work / "logs").mkdir(parents=True, exist_ok=True)
    folders = {name: Folder(work, name) for name in {FLOAT: None, **dict.fromkeys(formats)}}
    for folder in folders.values():
        _say(f"q3edge: {folder.name}")
        folder.build(again=arguments.again)
    cells, missing = _kept(work / "table.json"), dict[str, str]()
    for reader in (reader for reader in READERS if reader.name in names):
        try:
            environment = reader.install(work / "environments", work / "logs" / f"{reader.environment}-install.txt")
        except NotInstalledError as error:
            _say(f"{reader.name}: not installed: {error}")
            missing[reader.name] = str(error)
            continue
        row = cells.setdefault(reader.name, {})
        for name in formats:
            row[name] = _read(reader, environment, folders[name], folders[FLOAT], work)
            _say(f"{reader.name}: {name}: {row[name].failure or f'{row[name].equal}/{row[name].of}'}")
    rows = {reader.name: cells[reader.name] for reader in READERS if reader.name in cells}
    text = f"{machine_line()}\n\n{table(rows, list(FOLDERS), missing)}"
    (work / "table.md").write_text(text)
    plain = {name: {each: asdict(reading) for each, reading in row.items()} for name, row in rows.items()}
    (work / "table.json").write_text(json.dumps({"machine": machine(), "rows": plain, "missing": missing}, indent=1))
    print(text)
    return int(not all(rows[name][each].passed for name in names & rows.keys() for each in formats))


def _read(reader: Reader, environment: Path, folder: Folder, reference: Folder, work: Path) -> Reading:
    out = work / "out" / f"{reader.name}-{folder.path.name}".replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = work / "logs" / f"{out.name}.txt"
    command = reader.command(environment.resolve(), folder.job_file.resolve(), out.resolve())
    with log.open("w") as printed:
        try:
            code = subprocess.run(command, stdout=printed, stderr=printed, timeout=_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            return Reading(failure=f"no answer within {_SECONDS} s")
    if not code:
        return read(out, folder, reference)
    return Reading(failure=_last_words(log).replace(str(folder.path.resolve()), "DIR") or f"exit {code}")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300].replace("|", "/") if lines else ""


def _kept(path: Path) -> dict[str, dict[str, Reading]]:
    if not path.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["rows"]
    return {name: {each: Reading(**fields) for each, fields in row.items()} for name, row in rows.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
