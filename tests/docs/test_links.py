"""Pages have links that lead somewhere, and nothing left to fill in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)]*))?\)")
_FILE_LINK = re.compile(r"\[`?([\w/]+\.py)`?\]\(([^)\s#]+)")


def anchors(page: Path) -> set[str]:
    """Those that headings get where Markdown is shown: lower case, spaces become hyphens, other signs go."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"@[A-Z]+@", text)
    for target, anchor in _LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{target} is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{target or page.name} has no heading #{anchor}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_file_is_called_by_its_name(page: Path) -> None:
    for label, target in _FILE_LINK.findall(page.read_text(encoding="utf-8")):
        assert target.endswith(label), f"the link to {target} calls it {label}"
