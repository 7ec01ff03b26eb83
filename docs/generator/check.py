"""The built site, read as a browser does: every link, anchor, script and picture is a file of the site.

The builder checks the links that stand in Markdown. What a template or a generated page links to, it does not.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that a browser follows by itself, without a click.
_LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("video", "src")}
# A page that the builder makes of its own, whose links are absolute: no server, no 404.
_LEFT_OUT = {"404.html"}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[bool, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        for name in ("href", "src"):
            # A preconnect or a canonical address loads nothing.
            if name in given and given.get("rel") not in ("canonical", "preconnect"):
                self.links.append(((tag, name) in _LOADED, given[name]))


def problems(site: Path) -> list[str]:
    """Return what is wrong with the links of the pages under `site`, a line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        if name in _LEFT_OUT:
            continue
        for loaded, link in page.links:
            if reason := _reason(path, link, loaded, site, pages):
                found.append(f"{name}: {link}: {reason}")
    return sorted(set(found))


def _reason(page: Path, link: str, loaded: bool, site: Path, pages: dict[Path, _Page]) -> str | None:
    """Return what is wrong with a link, None for nothing. Links to elsewhere are for clicks alone."""
    address = urlsplit(link)
    if address.scheme == "data":
        return None
    if address.scheme or address.netloc:
        return "it is loaded from elsewhere" if loaded else None
    target = (page.parent / unquote(address.path)).resolve() if address.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site.resolve()):
        return "it is outside the site"
    if not target.is_file():
        return "no such file"
    anchor = unquote(address.fragment)
    if anchor and target in pages and anchor not in pages[target].ids and anchor != "__top":
        return "no such anchor"
    return None
