"""The page of errors: a section for each class, and what it quotes of the messages is what they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import coda_deploy.errors
import coda_runtime.errors
from docs.generator.python_api import ROOT
from tests.docs.pages import ROOT as CHECKOUT

PAGE = (CHECKOUT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
PHRASES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


def texts() -> set[str]:
    """Every text in the source of the packages, with a mark where a value goes."""
    found = set()
    for folder in ("runtime/coda_runtime", "export/coda_export", "coda_deploy"):
        for path in Path(ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    found.add("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


TEXTS = texts()


def is_said(phrase: str) -> bool:
    """Whether a message has the phrase, whose `...` stand for what varies."""
    pattern = re.compile(".*".join(map(re.escape, phrase.split(" ... "))))
    return any(pattern.search(text) for text in TEXTS)


def test_each_public_error_has_a_section() -> None:
    assert set(SECTIONS) == {*coda_runtime.errors.__all__, *coda_deploy.errors.__all__}
    assert [name for name, text in SECTIONS.items() if not re.search(r"^\| `", text, re.MULTILINE)] == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_is_what_a_message_says(phrase: str) -> None:
    assert is_said(phrase), f"no message says {phrase!r}"


def test_a_phrase_that_nobody_says_is_found() -> None:
    assert not is_said("there is no such ... message")
    assert len(PHRASES) == len(set(PHRASES)) > 60
