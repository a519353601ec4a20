"""Pages of the site that lie beside docs/ and not in it, such as README.md, its first page.

A link that leads out of docs/ works on GitHub, and would be broken in the site. Here what it leads
to becomes a page, or a file, of the site, and the link is rewritten.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
"""A Markdown link that is more than an anchor: `](`, the path, and the anchor with `)`."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what that links to in turn."""
    pending = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    seen: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".md" or path.is_dir():
            pending += _targets(path)
        name = site_name(path)
        if path.is_dir():
            files.append(File.generated(config, name, content=_listing(path)))
        elif not path.is_relative_to(ROOT / "docs"):
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point each link at where its target lies in the site."""
    here = source(page.file)

    def moved(link: re.Match[str]) -> str:
        target = _repository_path(here, link[2])
        if target is None:
            return link[0]
        path = posixpath.relpath(site_name(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{path}{link[3]}"

    return LINK.sub(moved, markdown)


def site_name(path: Path) -> str:
    """The path in the site of a file, or of the listing of a folder, of the repository."""
    if path == ROOT / "README.md":
        return "index.md"
    name = path.relative_to(ROOT).as_posix().removeprefix("docs/")
    return f"{name}/index.md" if path.is_dir() else name


def source(file: File) -> Path:
    """The path in the repository of a page."""
    if file.src_uri == "index.md":
        return ROOT / "README.md"
    inside = ROOT / "docs" / file.src_uri
    outside = ROOT / file.src_uri
    if outside.name == "index.md" and not outside.exists():
        return outside  # a listing: its links are of the folder that it lists
    return inside if inside.exists() else outside


def _targets(path: Path) -> Iterator[Path]:
    """What a page, or a listing, leads to in the repository."""
    text, here = (_listing(path), path / "index.md") if path.is_dir() else (path.read_text(), path)
    for link in LINK.finditer(text):
        target = _repository_path(here, link[2])
        if target is not None:
            yield target


def _repository_path(here: Path, target: str) -> Path | None:
    """The file or folder that a link means; None if it leads elsewhere, or nowhere."""
    if "://" in target or target.startswith("mailto:"):
        return None
    path = Path(posixpath.normpath(here.parent / target))
    return path if path.is_relative_to(ROOT) and path.exists() else None


def _listing(folder: Path) -> str:
    """A page that lists the files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    lines = [f"- [{name}]({name})" for name in names]
    return "\n".join([f"# {folder.relative_to(ROOT).as_posix()}", "", *lines, ""])
