"""The page of errors: a section for each class, and what it quotes of the messages is what they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import coda_deploy.errors
import coda_runtime.errors
from docs.generator.messages import CLASSES, CURES, REQUESTS, _made, _spoken, messages, page, silent
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


TEXTS = texts() | {of.text for of in messages()}


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


ONNXRUNTIME = "runtime/coda_runtime/backends/onnxruntime"
# Places that pass on what another error says, or a text that is made piece by piece, and so is on no list.
PASSED_ON = {
    f"{ONNXRUNTIME}/plugins.py: MissingDependencyError(why, extra='openvino-plugin')",
    f"{ONNXRUNTIME}/plugins.py: MissingDependencyError(why, 'onnxruntime-ep-nv-tensorrt-rtx')",
    "runtime/coda_runtime/backends/tensorrt/messages.py: BackendError(f'{failed} ({why}); {remedy}')",
    "runtime/coda_runtime/bulk/decoding.py: ImageError(told['error'])",
    "runtime/coda_runtime/bulk/failures.py: BackendError(message)",
    "runtime/coda_runtime/cli/verify.py: ParityError(part['problem'])",
    """runtime/coda_runtime/errors.py: MissingDependencyError(f"{what} needs {', '.join(missing)}", extra=extra)""",
    "runtime/coda_runtime/serving/admission.py: RequestError('unavailable', self._why_not)",
    "runtime/coda_runtime/serving/errors.py: RequestError('busy', str(error))",
    "runtime/coda_runtime/serving/errors.py: RequestError('invalid', str(error))",
    "runtime/coda_runtime/serving/errors.py: RequestError('unavailable', str(error))",
    "runtime/coda_runtime/triton/options.py: InputError(_NO_BACKEND[self.format])",
    "runtime/coda_runtime/tuned.py: _fail('; '.join(changed))",
    "coda_deploy/data/array.py: DataError(f'{path}: {error}')",
    "coda_deploy/data/shards.py: DataError(str(error))",
    "coda_deploy/tokenizer/model.py: InputError(str(error))",
    "coda_deploy/train/loop.py: StoppedError(self.request.signal or int(SIGTERM), lost)",
}


def test_every_place_that_makes_an_error_is_on_the_page_of_messages() -> None:
    """By construction, but for those whose text cannot be found; a new one needs a text, or a line above."""
    assert set(silent()) == PASSED_ON


def test_every_message_has_a_way_out() -> None:
    found = messages()
    assert len(found) > 700
    assert {of.error for of in found} <= CURES.keys()
    assert CURES.keys() == {*CLASSES, REQUESTS}
    assert [of for of in found if not of.cure.strip(" .")] == []


def test_the_page_of_messages_leads_to_the_sections_of_this_one() -> None:
    text = page()
    for name in SECTIONS:
        assert f"## {name}\n\n[More about it](../troubleshooting.md#{name.lower()})" in text
    assert "| ... is not a Hub id" in text
    assert "a masked array" in text, "what a helper's caller says"


def test_the_walk_finds_what_a_call_says() -> None:
    tree = ast.parse("""
def load(path):
    why = "is gone" if path else f"has {count(n, 'byte')}"
    raise InputError(f"{path} {why}; give it again")
def other():
    raise InputError(told())
def told():
    return "it was " + name + " before"
""")
    said = [list(_spoken(call, function)) for _, call, function in _made(tree)]
    assert said[0] == ["... ...; give it again"]


def test_a_phrase_that_nobody_says_is_found() -> None:
    assert not is_said("there is no such ... message")
    assert len(PHRASES) == len(set(PHRASES)) > 60
