"""The page in a real browser: it renders without complaint, asks nobody, and fits a phone. Needs Chromium."""

from __future__ import annotations

import html
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from q3edge.report.page.page import render_page
from tests.helpers.browser import CHROMIUM, OPTIONS
from tests.helpers.reports import make_report

PHONE = 360  # CSS pixels
HOUSEKEEPING = (".google.com", ".googleapis.com", ".gvt1.com")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]


def chromium(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a local page to its end in a profile of its own."""
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, *OPTIONS, "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", *options,
            page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_page(make_report()), encoding="utf-8")
    return path


def test_the_console_stays_empty_and_no_request_leaves(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    result = chromium(tmp_path, page, "--dump-dom", f"--log-net-log={log}")
    assert "<main" in result.stdout
    assert "CONSOLE" not in result.stderr
    assert _requests(json.loads(log.read_text())) == []


def test_the_style_passes_the_policy_and_a_phone_need_not_scroll_sideways(page: Path, tmp_path: Path) -> None:
    beyond = _evaluated(page, tmp_path, "found.documentElement.scrollWidth - found.documentElement.clientWidth")
    assert beyond == "0"
    weight = _evaluated(page, tmp_path, "getComputedStyle(found.querySelector('.verdict')).fontWeight")
    assert weight == "600"  # the style sheet's: the policy's hash is right


def test_u22_a_phone_shows_recovery_and_kl_without_scrolling(page: Path, tmp_path: Path) -> None:
    heads = "[...found.querySelectorAll('#table-accuracy ~ thead th')].slice(0, 3)"
    assert _evaluated(page, tmp_path, f"{heads}.map(head => head.firstChild.textContent).join()") == (
        "Variant,Recovery,Mean KL"
    )
    right = _evaluated(page, tmp_path, f"{heads}[2].getBoundingClientRect().right")
    assert float(right) <= PHONE - 16  # the page's margin


def _evaluated(page: Path, folder: Path, expression: str) -> str:
    """What an expression over the page's document gives, in a frame of a phone's width."""
    source = html.escape(page.read_text(encoding="utf-8"))
    outer = folder / "outer.html"
    script = f"const found = frame.contentDocument; document.title = {expression};"
    outer.write_text(
        f'<!doctype html><title></title><iframe id="frame" width="{PHONE}" height="700" style="border:0" '
        f'onload="{html.escape(script)}" srcdoc="{source}"></iframe>',
        encoding="utf-8",
    )
    return chromium(folder, outer, "--dump-dom").stdout.partition("<title>")[2].partition("</title>")[0]


def _requests(log: dict[str, Any]) -> list[str]:
    """URLs of a net log that lead out, but for Chromium's own housekeeping; the page names no host at all."""
    urls = {event.get("params", {}).get("url", "") for event in log["events"]}
    hosts = {url: urlsplit(url).hostname or "" for url in urls if not url.startswith(("file:", "data:", "about:"))}
    return [url for url, host in hosts.items() if host and not host.endswith(HOUSEKEEPING)]
