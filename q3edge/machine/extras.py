"""`install_line`: the command that adds an optional part to this installation, however it was made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "q3edge"
# Extras that users add, and the packages of each by the names under which they are imported.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "quantize": ("torch", "onnx", "onnx_ir", "pypdf"),
    "structured": ("llguidance",),
    "serve-only": ("starlette", "uvicorn", "pydantic", "sse_starlette", "prometheus_client"),
    "distributed": ("distributed",),
    "gguf": ("gguf",),
    "parquet": ("pyarrow",),
    "genai": ("onnxruntime_genai",),
    "eval": ("lm_eval",),
    "baselines": ("bitsandbytes",),
    "optimum": ("optimum",),
}


def missing_packages(extra: str) -> tuple[str, ...]:
    """Packages of an extra that are not installed."""
    return tuple(package for package in EXTRAS[extra] if find_spec(package) is None)


def install_line(extra: str) -> str:
    """Return the `pip install` that adds an extra: from the clone, file or address of the installation, or by name.

    The origin is what pip recorded (PEP 610, direct_url.json). Where nothing is recorded and the code lies in a source
    tree, installed or not, it is that.
    """
    recorded = _recorded()
    url, folder = str(recorded.get("url", "")), recorded.get("dir_info")
    if not url:
        return f"pip install '{NAME}[{extra}]'"
    if folder is None:
        if recorded.get("vcs_info"):
            url = f"{recorded['vcs_info']['vcs']}+{url}"
        return f"pip install {shlex.quote(f'{NAME}[{extra}] @ {url}')}"
    editable = "-e " if isinstance(folder, dict) and folder.get("editable") else ""
    return f"pip install {editable}{shlex.quote(f'{url2pathname(urlsplit(url).path)}[{extra}]')}"


def _recorded() -> Mapping[str, Any]:
    """The installation's direct_url.json, that of a source tree, or nothing: it came from an index."""
    # Of a source tree in sys.path, an egg-info comes before what pip recorded.
    found = (distribution.read_text("direct_url.json") for distribution in metadata.distributions(name=NAME))
    text = next(filter(None, found), None)
    source = Path(__file__).resolve().parents[2]
    if text is None and (source / "pyproject.toml").exists():
        return {"url": source.as_uri(), "dir_info": {"editable": True}}
    try:
        recorded = json.loads(text or "{}")
    except ValueError:
        return {}
    return recorded if isinstance(recorded, dict) else {}
