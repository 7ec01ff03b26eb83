"""Jobs that are done in one place, held over the syntax trees of all packages: what is written twice drifts apart."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("coda_deploy", "export", "runtime", "benchmarks")
RUNTIME = "runtime/coda_runtime"


def _is_text(*texts: str) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, ast.Constant) and node.value in texts


def _is_suffix_of_images(node: ast.AST) -> bool:
    return _is_text(".jpeg", ".tiff")(node)


def _folds_an_error(node: ast.AST) -> bool:
    """`str(error).split()` and `str(error).splitlines()`, the beginning of every helper that makes one line of it."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ("split", "splitlines", "strip")
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "str"
        and isinstance(node.value.args[0], ast.Name)
        and node.value.args[0].id in ("error", "e", "exc", "problem")
    )


def _asks_why_the_system_failed(node: ast.AST) -> bool:
    return isinstance(node, ast.BoolOp) and any(
        isinstance(value, ast.Attribute) and value.attr == "strerror" for value in node.values
    )


def _reads_a_varint(node: ast.AST) -> bool:
    """`(byte & 0x7F) << shift`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.LShift)
        and isinstance(node.left, ast.BinOp)
        and isinstance(node.left.op, ast.BitAnd)
        and _is_seven_bits(node.left.right)
    )


def _is_seven_bits(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0x7F


def _reads_memory(node: ast.AST) -> bool:
    return _is_text("VmRSS", "VmHWM")(node) or (isinstance(node, ast.Attribute) and node.attr == "ru_maxrss")


def _expands_a_home(node: ast.AST) -> bool:
    """`path.expanduser()`, which raises RuntimeError where there is no home; os.path.expanduser does not."""
    return isinstance(node, ast.Attribute) and node.attr == "expanduser" and ast.unparse(node.value) != "os.path"


# What stands before the noun is text here, a list, or a number that cannot be one.
_NO_COUNTS = (
    "{bundle} tokens.npz", "{sorted(codes)}", "{title} engines", "{rate(", "in the scenario {scenario}",
    "group_rows[:9]", "batches {sizes}", "{made.format} files", "{_about(", "keys and values", "length[:30]",
)  # fmt: skip
_COUNTED = re.compile(
    r" (artifacts|batches|bits|bytes|calls|cells|channels|checkpoints|codes|columns|cores|devices|elements|engines"
    r"|entries|files|graphs|images|inputs|items|keys|layers|measurements|nodes|numbers|operators|outputs|photographs"
    r"|processes|profiles|records|requests|rows|scales|seconds|shards|steps|tensors|threads|tokens|values|workers)"
    r"\b(?!/s)"
)


def _counts_a_noun(node: ast.AST) -> bool:
    """`f"{n} images"`, which says "1 images" of one; a constant, as in `f"{MAX} bytes"`, is known to be more."""
    if not isinstance(node, ast.JoinedStr):
        return False
    for value, after in itertools.pairwise(node.values):
        if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
            continue
        if _COUNTED.match(str(after.value)) is None:
            continue
        name = ast.unparse(value.value).split(".")[-1]
        spec = "" if value.format_spec is None else ast.unparse(value.format_spec)
        if not name.strip("_").isupper() and spec in ("", "f','"):
            return True
    return False


@pytest.fixture(scope="module")
def trees() -> dict[str, list[ast.AST]]:
    """Every node of each file of the packages."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {
        path.relative_to(ROOT).as_posix(): list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in files
    }


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        (_is_suffix_of_images, "io/image_files.py"),
        (_folds_an_error, None),
        (_asks_why_the_system_failed, None),
        (_reads_a_varint, "io/protobuf_wire.py"),
        (_reads_memory, "machine/memory.py"),
        (_is_text("snapshots", "blobs"), "io/hub_cache.py"),
        (_expands_a_home, None),
    ],
    ids=[
        "image suffixes",
        "an error as one line",
        "an OSError's reason",
        "varints",
        "memory",
        "the Hub's cache",
        "a user's home",
    ],
)
def test_one_place(trees: dict[str, list[ast.AST]], wanted: Callable[[ast.AST], bool], place: str | None) -> None:
    """None: `coda_runtime.errors.one_line` and `io.user_folders` do it by other means, and nothing else may."""
    found = [path for path, nodes in trees.items() if any(map(wanted, nodes))]
    assert found == ([] if place is None else [f"{RUNTIME}/{place}"])


def test_counts_are_written_by_one_helper(trees: dict[str, list[ast.AST]]) -> None:
    """`coda_runtime.io.counts.count`, which knows of one."""
    found = {
        ast.unparse(node)
        for path, nodes in trees.items()
        if not path.startswith("benchmarks")
        for node in nodes
        if _counts_a_noun(node)
    }
    assert [text for text in sorted(found) if not any(allowed in text for allowed in _NO_COUNTS)] == []


def test_the_patterns_find_what_they_are_for() -> None:
    for wanted, code in (
        (_is_suffix_of_images, 'SUFFIXES = {".jpeg"}'),
        (_folds_an_error, '" ".join(str(error).split())'),
        (_folds_an_error, "str(error).strip().splitlines()[0]"),
        (_asks_why_the_system_failed, 'f"{error.strerror or error}"'),
        (_reads_a_varint, "value |= (byte & 0x7F) << shift"),
        (_expands_a_home, "Path(given).expanduser()"),
        (_reads_memory, "resource.getrusage(0).ru_maxrss"),
        (_counts_a_noun, 'f"{len(names)} images: {out}"'),
        (_counts_a_noun, 'f"{size:,} bytes"'),
    ):
        assert any(map(wanted, ast.walk(ast.parse(code)))), code
