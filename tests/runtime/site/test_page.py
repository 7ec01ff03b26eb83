"""The page in Chromium: a JPEG dropped, dragged, a token changed, tokens.npz out and in, and without a network."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import coda_runtime
from coda_deploy import photographs
from coda_runtime.cli.app import cli
from coda_runtime.codes.tokens_file import read_tokens
from coda_runtime.site.engine import ENGINES, integrity
from tests.runtime.js.bridge import tool

pytestmark = pytest.mark.slow


def test_the_hashes_are_those_of_npm_s_files(npm_package: Path) -> None:
    for file in (file for files in ENGINES.values() for file in files):
        data = (npm_package / "node_modules" / "onnxruntime-web" / "dist" / file.name).read_bytes()
        assert (len(data), integrity(data)) == (file.bytes, file.integrity)


@contextmanager
def served(bundle: Path, npm_package: Path, out: Path, *options: str) -> Iterator[str]:
    """The page as `python -m http.server` serves it."""
    modules = npm_package / "node_modules"
    done = CliRunner().invoke(cli, ["site", str(bundle), "--out", str(out), "--vendor", str(modules), *options])
    assert done.exit_code == 0, done.output
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(out), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        said = server.stdout.readline()
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it
        try:
            yield said[said.index("http://") : said.index("/)")] + "/"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address(sample_bundle: Path, npm_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    out = tmp_path_factory.mktemp("site") / "page"
    with served(sample_bundle, npm_package, out) as where:
        (out / "beside").mkdir()
        (out / "beside" / "index.html").write_text("<p>something else</p>", encoding="utf-8")
        yield where


def test_the_page_in_chromium(address: str, sample_bundle: Path, npm_package: Path, tmp_path: Path) -> None:
    chromium = tool("chromium", "chromium")
    drive = Path(__file__).with_name("drive.mjs")
    command = [tool("node", "nodejs"), str(drive), chromium, address, str(tmp_path), *map(str, photographs.paths())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=npm_package, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.get("error") is None, told
    assert (told["console"], told["failures_online"]) == ([], 0), told
    assert told["title"] == "An image in 680 tokens"
    assert "works without a network" in told["offline"]
    assert told["saved"] == "tokens.npz"
    assert (told["coarser"], told["changed"], told["undone"]) == (True, True, True)
    assert told["clicked"] != told["moved"]
    assert "give a whole number from 0 to 4095" in told["problem"]
    assert told["beside"] is False  # what else the server has goes its own way, a redirect too
    assert told["isolated"] is True  # by the service worker's headers
    assert all(part in told["times"] for part in ("open the file", "resize", "encoder", "quantizer", "decoder"))
    with coda_runtime.load(sample_bundle, device="cpu") as tok:
        ids = tok.encode(list(map(str, photographs.paths())))
        found = np.stack([read_tokens(tmp_path / f"{path.name}.npz", tok).ids[0] for path in photographs.paths()])
        assert (found == ids).all(axis=1).tolist() == [True] * 8
        # One token was changed, and comes back as a picture by Python too.
        changed = read_tokens(tmp_path / "changed.npz", tok)
        assert changed.known
        assert (changed.ids[0] != ids[-1]).sum() == 1
        picture = tok.decode(changed.ids)[0]
        offline = read_tokens(tmp_path / "offline.npz", tok).ids[0]
    assert (offline == ids[0]).all()
    with Image.open(tmp_path / "picture.png") as opened:
        assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - picture).max() <= 1


def test_what_goes_wrong_on_the_page(sample_bundle: Path, npm_package: Path, tmp_path: Path) -> None:
    options = ("--precision", "int8", "--precision", "fp32")
    with served(sample_bundle, npm_package, tmp_path / "page", *options) as where:
        mishaps = str(Path(__file__).with_name("mishaps.mjs"))
        files = list(map(str, photographs.paths()))[:2]
        command = [tool("node", "nodejs"), mishaps, tool("chromium", "chromium"), where, *files]
        done = subprocess.run(command, capture_output=True, text=True, cwd=npm_package, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told.get("error"), told["failures"]) == (None, []), told
    assert told["examples"] == 0  # the first example does not take the place of what was dropped before it
    assert told["last"][0].startswith("two.jpg:")
    assert told["last"][1] == 0
    assert told["chosen"].startswith("Scale 10, row 1, column 2: code ")
    assert told["next"].startswith("Choose a square")
    assert "no code given; give a whole number from 0" in told["empty"]
    assert "is no file" in told["words"]
    assert "cannot be read as an image" in told["no_image"]
    assert "cannot draw an image of 70000 x 10 pixels; scale it down" in told["large"]
    assert told["cameras"] == ["ended", "ended"]
    assert "encoder.fp32.onnx cannot be read" in told["unloaded"]
    assert "The tokenizer is not loaded" in told["meanwhile"]
    assert told["engines"] == 0  # the one that is there is used again
