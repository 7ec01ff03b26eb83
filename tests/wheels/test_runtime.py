"""coda-runtime's wheel in a fresh environment: the commands run there, with the same tokens as from the source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coda_runtime
from tests.runtime import measurable, tiny
from tests.runtime.serving.process import LIMIT, Server, body
from tests.wheels.environment import Environment

pytestmark = pytest.mark.slow
IMAGES = tiny.photos(2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measurable.make(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def ids(bundle: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    with coda_runtime.load(bundle) as tok:
        return tok.encode(IMAGES)


def test_it_is_the_wheel(runtime: Environment) -> None:
    report = json.loads(runtime.run("coda", "doctor", "--json"))
    assert Path(report["executable"]).is_relative_to(runtime.folder)
    assert (report["coda-runtime"], report["coda-deploy"]) == (coda_runtime.__version__, None)
    assert list(report["engines"]) == ["onnxruntime"]
    where = runtime.run("python", "-c", "import coda_runtime; print(coda_runtime.__file__)")
    assert Path(where.strip()).is_relative_to(runtime.folder)
    assert "coda-runtime" in runtime.run("coda", "doctor")


def test_nothing_of_training_is_installed(runtime: Environment) -> None:
    names = {entry["name"].lower() for entry in json.loads(runtime.run("python", "-m", "pip", "list", "--format=json"))}
    assert {"coda-runtime", "numpy", "onnxruntime", "pillow", "click", "rich"} <= names
    assert not names & {"coda-deploy", "torch", "onnx", "kserve"}


def test_encode_and_decode(
    runtime: Environment, bundle: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]], tmp_path: Path
) -> None:
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    runtime.run("coda", "encode", bundle, *sorted(tmp_path.glob("*.png")), "--out", tmp_path / "tokens.npz")
    with np.load(tmp_path / "tokens.npz") as tokens:
        np.testing.assert_array_equal(tokens["ids"], ids)
    runtime.run("coda", "decode", bundle, tmp_path / "tokens.npz", "--out", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(IMAGES)


def test_the_files_beside_the_code(runtime: Environment, bundle: Path, tmp_path: Path) -> None:
    """A benchmark's results are held to a schema, its page has a style sheet: both are data in the wheel."""
    results, page = tmp_path / "results.json", tmp_path / "page.html"
    runtime.run("coda", "bench", "run", bundle, "--batch", 1, "--seconds", 0.1, "--out", results)
    runtime.run("coda", "bench", "report", results, "--out", page)
    assert "<style>" in page.read_text(encoding="utf-8")


def test_serve(
    server: Environment, bundle: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]], tmp_path: Path
) -> None:
    command = (str(server.bin / "coda"), "serve")
    running = Server(bundle, "--device", "cpu", command=command, env=server.variables)
    try:
        running.wait_for("ready")
        status, answer = running.post("/v2/models/encode/infer", body(IMAGES, "image", "UINT8"))
        assert status == 200, answer
        (output,) = json.loads(answer)["outputs"]
        np.testing.assert_array_equal(np.reshape(output["data"], output["shape"]), ids)
        running.process.terminate()
        assert running.process.wait(LIMIT) == 0
    finally:
        running.kill()
