"""`install_line`: the command that adds an optional part to this installation, however it was made."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "q3edge"


def install_line(extra: str) -> str:
    """Return the `pip install` that adds an extra: from the clone, file or address of the installation, or by name.

    The origin is what pip recorded (PEP 610, direct_url.json). Without a record of an installation, it is
    the source tree.
    """
    source = Path(__file__).resolve().parents[2]
    try:
        recorded = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
        url, folder = str(recorded.get("url", "")), recorded.get("dir_info")
    except metadata.PackageNotFoundError:
        url, folder = source.as_uri(), {"editable": True}
    except (ValueError, AttributeError):  # no JSON object: as if from an index
        url, folder = "", None
    if not url:
        return f"pip install '{NAME}[{extra}]'"
    if folder is None:
        if recorded.get("vcs_info"):
            url = f"{recorded['vcs_info']['vcs']}+{url}"
        return f"pip install {shlex.quote(f'{NAME}[{extra}] @ {url}')}"
    editable = "-e " if isinstance(folder, dict) and folder.get("editable") else ""
    return f"pip install {editable}{shlex.quote(f'{url2pathname(urlsplit(url).path)}[{extra}]')}"
