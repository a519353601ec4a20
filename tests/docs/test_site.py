"""The site builds without a warning; its links lead somewhere; it needs no network."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page names, and what it leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if "src" in given or (tag == "link" and "href" in given):
            self.loaded.append(given.get("src") or given["href"])
        elif "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """The pages of the site; 404.html, which a server shows at any address, is left out."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    paths = [path for path in folder.rglob("*.html") if path.name != "404.html"]
    return {path: Page(path) for path in paths}


def test_every_link_leads_to_a_file_and_a_heading(site):
    broken = []
    for path, page in site.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and anchor not in site[target].ids):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_a_page_loads_nothing_from_elsewhere(site):
    for path, page in site.items():
        assert [link for link in page.loaded if urlsplit(link).netloc] == [], path.name


def test_every_page_of_the_reference_is_filled_in(site):
    (path,) = [path for path in site if path.name == "python.html" and "reference" in path.parts]
    import vqtrt

    names = {f"vqtrt.{name}" for name in vqtrt.__all__ if not name.startswith("_")}
    assert names <= site[path].ids
