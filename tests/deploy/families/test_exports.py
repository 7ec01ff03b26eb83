"""Every form of VAE as a bundle: the same tokens and images as in PyTorch, in every precision, and as engines.

Minutes, so `make slow-tests` runs it. TensorRT-RTX's builder needs no GPU, and proves that a graph parses, has the
types of its precision, and can be planned; not that it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import coda_runtime
from coda_deploy import CodaTokenizer
from coda_deploy.export import calibration_images, parity_images
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export import DEFAULT_THRESHOLDS, export_bundle
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import build_engine
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Manifest
from coda_runtime.parity import ParityImages
from tests.tiny_families import FORMS, IMAGE_SIZE, make_family
from tests.tiny_tokenizers import images

pytestmark = pytest.mark.slow

PRECISIONS = ("fp32", "bf16", "int8")
# Random weights use all of their range, which no trained VAE's do: 8 bits are few for them.
INT8 = dataclasses.replace(DEFAULT_THRESHOLDS["int8"], min_psnr=18.0, max_psnr_drop=None)


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tok(form: str) -> CodaTokenizer:
    return make_family(form)


@pytest.fixture(scope="module")
def bundle(tok: CodaTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    photographs, out = parity_images(IMAGE_SIZE), tmp_path_factory.mktemp("families") / "bundle"
    export_bundle(
        fold_tokenizer(tok),
        TorchReference(tok),
        out,
        ParityImages(photographs.pixels[:3], photographs.source),
        calibration=calibration_images(IMAGE_SIZE),
        precisions=PRECISIONS,
        thresholds={**DEFAULT_THRESHOLDS, "int8": INT8},
    )
    yield out
    for file in out.rglob("*.onnx"):
        file.unlink()


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_and_images_are_the_tokenizer_s(tok: CodaTokenizer, bundle: Path, count: int) -> None:
    """The export has measured it on photographs; here for batches of its own size, through the runtime."""
    pictures = images(count).numpy()
    reference = TorchReference(tok)
    with coda_runtime.load(bundle, precision="fp32") as runtime:
        ids = runtime.encode(pictures)
        agreement = (ids == reference.step(reference.latent(pictures), ids)).mean()
        assert agreement >= 0.999
        made, expected = runtime.decode(ids).astype(int), reference.decode(ids).astype(int)
    assert np.abs(made - expected).max() <= 1
    error = float(np.square(made - expected).mean())
    assert error == 0 or 10 * np.log10(255**2 / error) >= 55
    assert len(np.unique(expected)) > 20, "a picture of few levels proves little"


def test_every_precision_is_there(manifest: Manifest) -> None:
    for part in ("encoder", "decoder"):
        for precision in PRECISIONS:
            (artifact,) = manifest.find(part, format="onnx", precision=precision)
            assert artifact.is_measured == (precision != "bf16"), "onnxruntime's CPU provider has no bf16"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_engine_builds(bundle: Path, manifest: Manifest, part: str, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    (artifact,) = manifest.find(part, format="onnx", precision=precision)
    options = BuildOptions((1, 2, 4), ("sm89",))
    made = build_engine(find_library("tensorrt-rtx"), bundle / artifact.file, options, precision=precision)
    assert len(made.data) > 1000
