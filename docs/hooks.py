"""Hooks of the documentation site: files outside ``docs/`` that pages link to become part of the site.

A link such as ``../../benchmarks/results/stopping.md`` works in the repository as it is. For the site, the file it
names is added below ``project/`` and the link is rewritten, so that the built site is complete without the
repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside ``docs/`` that some page names, and those that they name in turn."""
    waiting = [ROOT / name for name in ALWAYS]
    for page in DOCS.rglob("*.md"):
        waiting += _outside(page)
    added: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in added:
            continue
        added.add(path)
        name = f"project/{path.relative_to(ROOT)}"
        if path.suffix == ".md":
            text = _rewritten(path.read_text(encoding="utf-8"), path, Path(name).parent)
            files.append(File.generated(config, name, content=text))
            waiting += _outside(path)
        else:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave ``docs/`` to the copies below ``project/``."""
    if page.file.src_uri.startswith("project/"):
        return markdown
    return _rewritten(markdown, DOCS / page.file.src_uri, Path(page.file.src_uri).parent)


def _target(link: str, page: Path) -> Path | None:
    """The file that a relative link of a page names, None for an address."""
    if re.match(r"[a-z]+:", link):
        return None
    path = Path(os.path.normpath(page.parent / link))
    return path if path.exists() else None


def _outside(page: Path) -> list[Path]:
    """The files outside ``docs/`` that a page links to. A folder stands for its README.md."""
    found = [_target(match[2], page) for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    files = [path / "README.md" if path.is_dir() else path for path in found if path is not None]
    return [path for path in files if DOCS not in path.parents and path.is_file()]


def _rewritten(text: str, page: Path, folder: Path) -> str:
    """The text with its links as they must be from a folder of the site."""

    def rewrite(match: re.Match[str]) -> str:
        path = _target(match[2], page)
        if path is None:
            return match[0]
        if path.is_dir():
            path = path / "README.md"
        inside = DOCS in path.parents
        place = path.relative_to(DOCS) if inside else Path("project") / path.relative_to(ROOT)
        return match[1] + os.path.relpath(place, folder) + match[3]

    return LINK.sub(rewrite, text)
