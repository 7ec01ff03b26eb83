"""What each stage of the pipeline costs on the sample's bundle: ``make bench`` or ``pytest benchmarks/test_stages.py``.

On a published shape, with random weights (the overhead at 32 images takes many minutes there)::

    python -m benchmarks.bench_cpu --prepare --shapes mar_v16384 --work DIR
    pytest benchmarks/test_stages.py --bundle DIR/mar_v16384/bundle -k "not overhead"

On another engine or device; what it cannot run is skipped with the reason, and so are the raw sessions, which are
onnxruntime's on the CPU::

    pytest benchmarks/test_stages.py --bundle DIR --backend tensorrt --device cuda:0 --precision bf16

Not part of `make test`. The runtime and the raw sessions are timed one after the other here, which a changing machine
spoils: benchmarks/bench_runtime.py takes turns, and judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

import coda_runtime
from benchmarks.bench_runtime import RawSessions, run_in_chunks
from coda_deploy import photographs
from coda_deploy.export import export_tokenizer
from coda_deploy.sample import tokenizer_path
from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import CodaError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parts import IMAGE, PARTS, QUANTIZER
from coda_runtime.images import fit
from coda_runtime.select import choose

Array = NDArray[Any]
PRECISIONS = ("fp32", "bf16")
LOADING = ("backend", "device", "precision")
LARGE = (4000, 3000)  # 12 megapixels


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a stage the ``precision`` that was asked for, or each of the usual ones; a quantizer has but one."""
    if "precision" not in metafunc.fixturenames:
        return
    asked: str | None = metafunc.config.getoption("precision")
    precisions = PRECISIONS if asked is None else (asked,)
    if "part" in metafunc.fixturenames:
        pairs = [(part, precision) for part in PARTS for precision in precisions]
        once = [pair for pair in pairs if pair[0] != QUANTIZER.name or pair[1] == precisions[0]]
        metafunc.parametrize(("part", "precision"), once)
    else:
        metafunc.parametrize("precision", precisions)


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that --bundle names, or the sample, exported as `coda export --precision fp32,bf16` does."""
    named: Path | None = request.config.getoption("bundle")
    if named is not None:
        return named
    out = tmp_path_factory.mktemp("pieces") / "bundle"
    export_tokenizer(tokenizer_path(), out, precisions=PRECISIONS)
    return out


@pytest.fixture(scope="session")
def loading(request: pytest.FixtureRequest) -> dict[str, str]:
    """How everything is loaded, as far as it was asked for: --backend, --device, --precision."""
    asked = {name: request.config.getoption(name) for name in LOADING}
    return {name: value for name, value in asked.items() if value is not None}


@contextmanager
def loaded_as(bundle: Path, asked: Mapping[str, Any]) -> Iterator[coda_runtime.Tokenizer]:
    """The bundle, or a skipped test: what cannot run here is no failure."""
    try:
        tokenizer = coda_runtime.load(bundle, **asked)
    except CodaError as error:
        pytest.skip(str(error))
    with tokenizer:
        yield tokenizer


@pytest.fixture(scope="session")
def tokenizer(bundle: Path, loading: dict[str, str]) -> Iterator[coda_runtime.Tokenizer]:
    with loaded_as(bundle, {"device": "cpu", **loading}) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def raw(tokenizer: coda_runtime.Tokenizer) -> RawSessions:
    if {(artifact.backend, artifact.device) for artifact in tokenizer.artifacts} != {("onnxruntime", "cpu")}:
        pytest.skip("raw sessions are onnxruntime's on the CPU, to be timed beside the runtime there")
    return RawSessions(tokenizer)


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped photograph, enlarged to what a camera writes."""
    path = tmp_path_factory.mktemp("photograph") / "large.jpg"
    with Image.open(photographs.paths()[0]) as image:
        image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


@pytest.fixture(scope="session")
def images(tokenizer: coda_runtime.Tokenizer) -> Array:
    """uint8 [32, H, W, 3]."""
    square = np.stack([fit(path, tokenizer.spec.image_size) for path in photographs.paths()])
    return np.resize(square, (32, *square.shape[1:]))


@pytest.mark.benchmark(group="1 preprocess")
def test_jpeg_of_12_megapixels(
    benchmark: BenchmarkFixture, photograph: Path, tokenizer: coda_runtime.Tokenizer
) -> None:
    assert benchmark(fit, photograph, tokenizer.spec.image_size).shape == IMAGE.row(tokenizer.spec)


@pytest.mark.benchmark(group="1 preprocess")
def test_array_of_12_megapixels(
    benchmark: BenchmarkFixture, photograph: Path, tokenizer: coda_runtime.Tokenizer
) -> None:
    with Image.open(photograph) as image:
        pixels = np.asarray(image)
    assert benchmark(fit, pixels, tokenizer.spec.image_size).shape == IMAGE.row(tokenizer.spec)


@pytest.mark.benchmark(group="1 preprocess")
def test_array_already_square(benchmark: BenchmarkFixture, images: Array) -> None:
    assert benchmark(fit, images[0], images.shape[1]) is not None


@pytest.mark.benchmark(group="2 one part, batch 1")
def test_part(
    benchmark: BenchmarkFixture,
    bundle: Path,
    loading: dict[str, str],
    tokenizer: coda_runtime.Tokenizer,
    images: Array,
    part: str,
    precision: str,
) -> None:
    """Time a session alone: unless told otherwise, fp32 on the CPU provider, bf16 on OpenVINO."""
    opened = Bundle.open(bundle)
    options = LoadOptions(**{"device": "cpu" if precision == "fp32" else "auto", **loading, "precision": precision})  # type: ignore[arg-type]
    given: dict[str, Array] = {"encoder": images[:1], "decoder": tokenizer.encode(images[:1])}
    if part == "quantizer":
        given["quantizer"] = tokenizer.run_parts(images[:1], "encoder")
    try:
        chosen = choose(opened, part, options)
        session = chosen.backend.load(opened, chosen.artifact, options)
    except CodaError as error:
        pytest.skip(str(error))
    try:
        assert len(benchmark(session.run, given[part])) == 1
    finally:
        session.close()


@pytest.mark.benchmark(group="3 whole, batch 1")
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_whole(
    benchmark: BenchmarkFixture, bundle: Path, loading: dict[str, str], images: Array, operation: str, precision: str
) -> None:
    with loaded_as(bundle, {**loading, "precision": precision}) as loaded:
        given = images[:1] if operation == "encode" else loaded.encode(images[:1])
        assert len(benchmark(getattr(loaded, operation), given)) == 1


@pytest.mark.parametrize("pipeline", ["raw", "runtime"])
@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("batch", [1, 32])
def test_overhead(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    tokenizer: coda_runtime.Tokenizer,
    images: Array,
    batch: int,
    operation: str,
    pipeline: str,
) -> None:
    benchmark.group = f"4 {operation}, batch {batch}: raw sessions and runtime"
    given = images[:batch] if operation == "encode" else tokenizer.encode(images[:batch])
    if pipeline == "runtime":
        out = benchmark(getattr(tokenizer, operation), given)
    else:
        raw: RawSessions = request.getfixturevalue("raw")
        out = benchmark(run_in_chunks, getattr(raw, operation), given, tokenizer.images_per_run)
    assert len(out) == batch


@pytest.mark.benchmark(group="5 load")
@pytest.mark.parametrize("verify", ["cached", "always"])
def test_load(benchmark: BenchmarkFixture, bundle: Path, loading: dict[str, str], precision: str, verify: Any) -> None:
    """Load a folder as a tokenizer, and close it again; "always" hashes every file."""
    asked: Any = {**loading, "precision": precision, "verify": verify}
    with loaded_as(bundle, asked):
        pass

    def load() -> None:
        coda_runtime.load(bundle, **asked).close()

    timed: Any = benchmark  # pedantic has no types
    timed.pedantic(load, rounds=5, iterations=1, warmup_rounds=1)
