"""What each stage of the pipeline costs on the sample's bundle: ``make bench`` or ``pytest benchmarks/test_stages.py``.

On a published shape, with random weights (the overhead at 32 images takes many minutes there)::

    python -m benchmarks.bench_cpu --prepare --shapes mar_v16384 --work DIR
    pytest benchmarks/test_stages.py --bundle DIR/mar_v16384/bundle -k "not overhead"

Another engine or device, where the whole is loaded (the raw sessions are onnxruntime's on the CPU)::

    pytest benchmarks/test_stages.py --bundle DIR --backend tensorrt --device cuda:0 --precision bf16 -k runtime

Not part of `make test`. The runtime and the raw sessions are timed one after the other here, which a changing machine
spoils: benchmarks/bench_runtime.py takes turns, and judges.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from coda_runtime.format.bundle import Bundle
from coda_runtime.images import fit
from coda_runtime.select import choose

Array = NDArray[Any]
PRECISIONS = ("fp32", "bf16")
LARGE = (4000, 3000)  # 12 megapixels


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
    """How the whole is loaded: --backend, --device, --precision."""
    return {name: request.config.getoption(name) for name in ("backend", "device", "precision")}


@pytest.fixture(scope="session")
def tokenizer(bundle: Path, loading: dict[str, str]) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(bundle, **loading) as loaded:  # type: ignore[arg-type]
        yield loaded


@pytest.fixture(scope="session")
def raw(tokenizer: coda_runtime.Tokenizer) -> RawSessions:
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
    """uint8 [32, S, S, 3]."""
    square = np.stack([fit(path, tokenizer.spec.image_size) for path in photographs.paths()])
    return np.resize(square, (32, *square.shape[1:]))


@pytest.mark.benchmark(group="1 preprocess")
def test_jpeg_of_12_megapixels(
    benchmark: BenchmarkFixture, photograph: Path, tokenizer: coda_runtime.Tokenizer
) -> None:
    size = tokenizer.spec.image_size
    assert benchmark(fit, photograph, size).shape == (size, size, 3)


@pytest.mark.benchmark(group="1 preprocess")
def test_array_of_12_megapixels(
    benchmark: BenchmarkFixture, photograph: Path, tokenizer: coda_runtime.Tokenizer
) -> None:
    size = tokenizer.spec.image_size
    with Image.open(photograph) as image:
        pixels = np.asarray(image)
    assert benchmark(fit, pixels, size).shape == (size, size, 3)


@pytest.mark.benchmark(group="1 preprocess")
def test_array_already_square(benchmark: BenchmarkFixture, images: Array) -> None:
    assert benchmark(fit, images[0], images.shape[1]) is not None


@pytest.mark.benchmark(group="2 one part, batch 1")
@pytest.mark.parametrize(
    ("part", "precision"),
    [("encoder", "fp32"), ("encoder", "bf16"), ("quantizer", "fp32"), ("decoder", "fp32"), ("decoder", "bf16")],
)
def test_part(
    benchmark: BenchmarkFixture,
    bundle: Path,
    tokenizer: coda_runtime.Tokenizer,
    images: Array,
    part: str,
    precision: str,
) -> None:
    """Time a session alone: fp32 on the CPU provider, bf16 on OpenVINO."""
    opened = Bundle.open(bundle)
    options = LoadOptions("cpu" if precision == "fp32" else "auto", precision=precision)
    given: dict[str, Array] = {"encoder": images[:1], "decoder": tokenizer.encode(images[:1])}
    if part == "quantizer":
        given["quantizer"] = tokenizer.run_parts(images[:1], "encoder")
    chosen = choose(opened, part, options)
    session = chosen.backend.load(opened, chosen.artifact, options)
    try:
        assert len(benchmark(session.run, given[part])) == 1
    finally:
        session.close()


@pytest.mark.benchmark(group="3 whole, batch 1")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_whole(benchmark: BenchmarkFixture, bundle: Path, images: Array, operation: str, precision: str) -> None:
    with coda_runtime.load(bundle, precision=precision) as loaded:
        given = images[:1] if operation == "encode" else loaded.encode(images[:1])
        assert len(benchmark(getattr(loaded, operation), given)) == 1


@pytest.mark.parametrize("pipeline", ["raw", "runtime"])
@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("batch", [1, 32])
def test_overhead(
    benchmark: BenchmarkFixture,
    tokenizer: coda_runtime.Tokenizer,
    raw: RawSessions,
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
        out = benchmark(run_in_chunks, getattr(raw, operation), given, tokenizer.images_per_run)
    assert len(out) == batch


@pytest.mark.benchmark(group="5 load")
@pytest.mark.parametrize("verify", ["cached", "always"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_load(benchmark: BenchmarkFixture, bundle: Path, precision: str, verify: Any) -> None:
    """Load a folder as a tokenizer, and close it again; "always" hashes every file."""

    def load() -> None:
        coda_runtime.load(bundle, precision=precision, verify=verify).close()

    timed: Any = benchmark  # pedantic has no types
    timed.pedantic(load, rounds=5, iterations=1, warmup_rounds=1)
