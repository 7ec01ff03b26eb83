"""NVTX ranges by NVIDIA's package, as a tool that it loads is told of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import coda_runtime
from coda_runtime.nvtx_ranges import no_ranges
from tests.runtime import measurable, tiny
from tests.runtime.remote import RemoteBackend

pytest.importorskip("nvtx")
SOURCE = Path(__file__).with_name("nvtx_tool.c")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that writes down the ranges of the process which loads it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the tool with")
    library = tmp_path_factory.mktemp("tool") / "tool.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measurable.make(tmp_path_factory.mktemp("measurable") / "bundle")


def watched(tool: Path, log: Path, *arguments: object) -> list[str]:
    """Run Python with the tool, and return what it was told: "PID TID DOMAIN push NAME [IMAGES]" or "... pop"."""
    env = {**os.environ, "NVTX_INJECTION64_PATH": str(tool), "CODA_NVTX_LOG": str(log)}
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines() if log.exists() else []


def paths(lines: list[str]) -> list[str]:
    """Return each range of one thread as the ranges around it and itself, in the order in which they begin."""
    stack: list[str] = []
    found = []
    for line in lines:
        *_, domain, what, name = line.split(None, 4) if "push" in line else [*line.split(None, 3), ""]
        assert domain == "coda"
        if what == "push":
            stack.append(name)
            found.append(" > ".join(stack))
        else:
            stack.pop()
    assert stack == [], "each is popped"
    return found


CALLS = """
import sys
import numpy, coda_runtime
photos = numpy.load(sys.argv[1])
with coda_runtime.load(sys.argv[2], device="cpu", nvtx=sys.argv[3] == "on") as tok:
    tok.images_per_run = 2
    tok.decode(tok.encode(photos))
    try:
        tok.encode(photos[:0])
    except coda_runtime.CodaError:
        pass
    tok.run_parts(photos[:1], "encoder")
assert ("nvtx" in sys.modules) == (sys.argv[3] == "on")
"""


def test_calls_batches_and_parts(tool: Path, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "photos.npy", tiny.photos(3))
    arguments = ("-c", CALLS, tmp_path / "photos.npy", bundle)
    lines = watched(tool, tmp_path / "log", *arguments, "on")
    assert paths(lines) == [
        "encode 3",
        "encode 3 > batch 2",
        "encode 3 > batch 2 > encoder 2",
        "encode 3 > batch 2 > quantizer 2",
        "encode 3 > batch 1",
        "encode 3 > batch 1 > encoder 1",
        "encode 3 > batch 1 > quantizer 1",
        "decode 3",
        "decode 3 > batch 2",
        "decode 3 > batch 2 > decoder 2",
        "decode 3 > batch 1",
        "decode 3 > batch 1 > decoder 1",
        "run_parts 1",
        "run_parts 1 > batch 1",
        "run_parts 1 > batch 1 > encoder 1",
    ]
    assert watched(tool, tmp_path / "other", *arguments, "off") == []


ON_A_GPU = """
import sys
import coda_runtime
from tests.runtime import tiny
from tests.runtime.remote import Remote, RemoteBackend
with coda_runtime.load(sys.argv[1], backend=RemoteBackend(), nvtx=True) as tok:
    tok.decode(tok.encode(Remote(tiny.photos(2))))
    tok.reconstruct(Remote(tiny.photos(2)))
    try:
        tok.encode(Remote(tiny.photos(9)))
    except coda_runtime.CodaError:
        pass
    tok.decode(tok.encode(Remote(tiny.photos(1))))
"""


def test_arrays_on_a_gpu(tool: Path, bundle: Path, tmp_path: Path) -> None:
    lines = watched(tool, tmp_path / "log", "-c", ON_A_GPU, bundle)
    once = ["encode", "encode > encoder {0}", "encode > quantizer {0}", "decode", "decode > decoder {0}"]
    whole = ["reconstruct", *(f"reconstruct > {part} 2" for part in ("encoder", "quantizer", "decoder"))]
    expected = [*(line.format(2) for line in once), *whole, "encode", *(line.format(1) for line in once)]
    assert paths(lines) == expected, "one that failed is popped too"


def test_a_benchmark_marks_what_its_processes_run(tool: Path, bundle: Path, tmp_path: Path) -> None:
    code = "import sys; from coda_runtime.cli import main; main()"
    work = ("--seconds", "0.02", "--batch", "2", "--repeat-process", "2", "--device", "cpu", "--operation", "encode")
    lines = watched(tool, tmp_path / "log", "-c", code, "bench", "run", bundle, *work, "--nvtx")
    pids = {line.split()[0] for line in lines}
    assert len(pids) == 2
    for pid in pids:
        found = Counter(paths([line for line in lines if line.split()[0] == pid]))
        assert found["encode 2 > batch 2 > encoder 2"] == found["encode 2"] >= 16, "six to warm up, ten measured"
        assert found["encode 1"] == 1, "the first call"


def test_without_a_tool_it_runs_as_ever(bundle: Path) -> None:
    photos = tiny.photos(3)
    with coda_runtime.load(bundle, device="cpu") as plain, coda_runtime.load(bundle, device="cpu", nvtx=True) as marked:
        np.testing.assert_array_equal(marked.encode(photos), plain.encode(photos))
    assert no_ranges("encode", 3) is no_ranges("decode"), "what is not watched makes nothing"
    with coda_runtime.load(bundle, backend=RemoteBackend(), nvtx=True) as tok:
        assert tok.encode(photos).shape == (3, tiny.TOKENS)
