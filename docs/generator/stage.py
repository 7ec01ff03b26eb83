"""The pages of the site, written for the site's builder: those of docs/ and what they link to in the checkout.

A page that links to a file or folder of the project, as all do that name a module, leads to a page that shows it: the
site needs no host that shows the source. What a link names and is not there ends the build.
"""

from __future__ import annotations

import ast
import posixpath
import shutil
from pathlib import Path

from docs.generator.markdown import fenced, relinked

ROOT = Path(__file__).parents[2]
# Pages of the checkout that have a place in the navigation, and what each is called there.
NAMED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}
_LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".sh": "sh",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".js": "javascript",
    ".json": "json",
    ".txt": "text",
    ".md": "markdown",
}
# Shown by a browser as they are.
_COPIED = {".gif", ".jpg", ".json", ".jsonl", ".png", ".svg", ".webp"}
_UNLISTED = {"__pycache__"}
_OUT_OF_SEARCH = "---\nsearch:\n  exclude: true\n---\n\n"


class LinkError(Exception):
    """A page links to what is not there."""


class Stage:
    """Writes pages under `out`, and then whatever they link to, each once."""

    def __init__(self, out: Path, root: Path = ROOT) -> None:
        self.out, self.root = out, root
        self._left: list[str] = []
        self._seen: set[str] = set()

    def run(self) -> None:
        """Write all pages of docs/, those of NAMED, and what they link to. Raises LinkError."""
        for page in sorted((self.root / "docs").glob("*.md")):
            self._queue(f"docs/{page.name}")
        for name in NAMED:
            if name != "README.md":  # its place is that of docs/index.md
                self._queue(name)
        while self._left:
            self._write(self._left.pop())

    def _queue(self, path: str) -> None:
        if path not in self._seen and path != "README.md":
            self._seen.add(path)
            self._left.append(path)

    def _write(self, path: str) -> None:
        source, place = self.root / path, self.out / self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            place.write_text(self._folder(path), encoding="utf-8")
        elif source.suffix in _COPIED:
            shutil.copyfile(source, place)
        elif source.suffix == ".md":
            head = "" if place.parent == self.out else _OUT_OF_SEARCH
            place.write_text(head + self._page(path, source.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            place.write_text(_shown(path, source.read_text(encoding="utf-8")), encoding="utf-8")

    def place(self, path: str) -> str:
        """Return where a file or folder of the checkout, by its path from the root, goes below `out`."""
        if path in NAMED:
            return NAMED[path]
        folder, name = posixpath.split(path)
        if folder == "docs" and name.endswith(".md"):
            return name
        if folder.startswith("docs/") and Path(path).suffix in _COPIED:
            return path.removeprefix("docs/")
        # A builder leaves hidden folders out.
        shown = "/".join(f"dot-{part[1:]}" if part.startswith(".") else part for part in path.split("/"))
        if (self.root / path).is_dir():
            return f"source/{shown}/index.md"
        return f"source/{shown}" if Path(path).suffix in _COPIED else f"source/{shown}.md"

    def _page(self, path: str, text: str) -> str:
        return fenced(relinked(text, lambda target: self._target(path, target)))

    def _target(self, page: str, target: str) -> str:
        """Return what a link of a page leads to on the site, relative to the page's place there."""
        file, mark, anchor = target.partition("#")
        if not file or target.startswith(("http:", "https:", "mailto:")):
            return target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), file))
        if path.startswith("..") or not (self.root / path).exists():
            raise LinkError(f"{page} links to {target}, which is not there")
        self._queue(path)
        return posixpath.relpath(self.place(path), posixpath.dirname(self.place(page)) or ".") + mark + anchor

    def _folder(self, path: str) -> str:
        """Return a list of what is in a folder, with the first line that each module says of itself."""
        rows = []
        for entry in sorted((self.root / path).iterdir()):
            if entry.name in _UNLISTED or entry.name.startswith("."):
                continue
            inner = f"{path}/{entry.name}"
            if entry.is_dir():
                rows.append(f"| `{entry.name}/` | {_headline(entry / '__init__.py')} |")
            elif entry.suffix in _LANGUAGES:
                self._queue(inner)
                rows.append(f"| [`{entry.name}`]({posixpath.basename(self.place(inner))}) | {_headline(entry)} |")
            else:
                rows.append(f"| `{entry.name}` | |")
        return "\n".join([f"{_OUT_OF_SEARCH}# {path}", "", "| name | what |", "| --- | --- |", *rows, ""])


def _headline(module: Path) -> str:
    """Return the first sentence of a module's docstring, "" where there is none."""
    if module.suffix != ".py" or not module.is_file():
        return ""
    paragraph = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|").replace("<", "&lt;")


def _shown(path: str, text: str) -> str:
    """Return the page of a file that is no page: its text, with a fence that the text does not hold."""
    fence = "`" * (3 + max((len(run) for run in text.split() if set(run) == {"`"}), default=0))
    language = _LANGUAGES.get(Path(path).suffix, "text")
    return f"{_OUT_OF_SEARCH}# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
