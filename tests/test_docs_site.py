"""The built site: strict, self-contained, no broken link, every public name in the reference."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest

import kfac
import symlearn
from symlearn import layers
from symlearn.report import plots

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page links to and loads, the anchors it has, and images without words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.silent: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if tag == "link" and "canonical" not in (given.get("rel") or ""):
            self.loads.append(given.get("href") or "")
        if tag in LOADS and given.get(LOADS[tag]):
            self.loads.append(given[LOADS[tag]] or "")
        if tag == "img" and not given.get("alt"):
            self.silent.append(given.get("src") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's word on another version of MkDocs
    ended = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WARNING -" not in ended.stderr, ended.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_no_link_is_broken(site: Path, pages: dict[Path, Page]) -> None:
    """Every link within the site leads to a file, and to an anchor that is there."""
    broken, followed = [], 0
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of the server's root
            continue
        for link in [*page.links, *page.loads]:
            target, anchor = urldefrag(link)
            if urlparse(target).scheme:
                continue
            found = (path.parent / unquote(target)).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            followed += 1
            if (
                not found.is_file()
                or not found.is_relative_to(site.resolve())
                or (anchor and found.suffix == ".html" and unquote(anchor) not in pages[found].anchors)
            ):
                broken.append(f"{path.name}: {link}")
    assert not broken, broken
    assert followed > 500


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert [load for load in page.loads if urlparse(load).netloc] == [], path.name


def test_every_page_is_reached(site: Path, pages: dict[Path, Page]) -> None:
    home = site / "index.html"
    seen = {
        (home.parent / unquote(urldefrag(link)[0])).resolve()
        for link in pages[home].links
        if not urlparse(link).scheme
    }
    missing = {path.name for path in pages if path.name != "404.html" and path.resolve() not in seen}
    assert not missing - {"index.html"}


def test_pictures_have_words(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert page.silent == [], path.name


def test_formulas_are_written(pages: dict[Path, Page]) -> None:
    """None is left as LaTeX."""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "arithmatex" not in text, path.name
    written = {path.name: path.read_text(encoding="utf-8").count("<math") for path in pages}
    for name in ("paths.html", "evidence.html", "search.html", "effective-parameters.html"):
        assert written[name] >= 5, name


def test_reference_has_every_public_name(pages: dict[Path, Page]) -> None:
    anchors = {anchor for path, page in pages.items() if path.parent.name == "api" for anchor in page.anchors}
    names = {f"symlearn.{name}" for name in symlearn._PUBLIC}
    names |= {f"kfac.{name}" for name in kfac.__all__}
    names |= {f"symlearn.report.plots.{name}" for name in plots.__all__}
    names |= {f"symlearn.layers.{name}" for name in layers.__all__} - {"symlearn.layers.PATHS"}
    names -= {"symlearn.layers.GroupAction"}  # is symlearn.GroupAction
    names |= {"symlearn.layers.registry.PATHS"}
    assert names <= anchors, sorted(names - anchors)
