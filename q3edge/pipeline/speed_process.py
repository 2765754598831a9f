"""One measured process of a report's speed: what `bench_process` times, and the peak of this program's memory.

The kernel's ru_maxrss survives exec on Linux and so begins at the peak of whoever started the process, which here has
torch and the evaluation in it; VmHWM counts from exec.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from q3edge.pipeline.bench_process import measure

_STATUS = Path("/proc/self/status")
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def measured(folder: Path, prompt: int, new: int, threads: int) -> dict[str, Any]:
    """Seconds of a prefill of `prompt` tokens and of each of `new` tokens behind an empty context, and peak bytes."""
    found = measure(folder, time.time(), prompt, new, (0,), threads)
    return {"prefill": found["prefill"], "decode": found["decode"][0], "peak_bytes": _peak(found["peak_bytes"][0])}


def _peak(otherwise: int) -> int:
    try:
        found = _PEAK.search(_STATUS.read_text())
    except OSError:  # not Linux
        found = None
    return 1024 * int(found[1]) if found else otherwise


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    print(json.dumps(measured(Path(arguments.pop("folder")), **arguments)))
