"""The site of docs/ builds without a warning and loads nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}

pytest.importorskip("material", reason="mkdocs-material is not installed")


class LoadedFrom(HTMLParser):
    """Addresses that a page loads something from as it opens; links to follow are none."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", "tools/mkdocs.yml", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.slow
def test_every_document_is_a_page(site: Path) -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        page = document.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / (page.with_name("index.html") if page.stem == "README" else page)).exists(), document


@pytest.mark.slow
def test_pages_and_styles_load_nothing_from_other_hosts(site: Path) -> None:
    loaded = {address for page in site.rglob("*.html") for address in LoadedFrom(page.read_text("utf-8")).addresses}
    styles = [style.read_text("utf-8") for style in site.rglob("*.css")]
    loaded |= {address for style in styles for address in re.findall(r"url\(['\"]?([^'\")]+)", style)}
    assert any(address.endswith(".css") for address in loaded)
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []


def test_a_script_from_another_host_would_be_found() -> None:
    page = '<script src="https://a.example/b.js"></script><a href="https://c.example">c</a><img src="d.png">'
    assert LoadedFrom(page).addresses == ["https://a.example/b.js", "d.png"]
