"""A repository of ONNX files: every config against Triton's protobufs and the graphs, every ensemble run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coda_runtime
from coda_runtime import BundleError, ChecksumError, InputError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.format.manifest import Manifest
from coda_runtime.triton import RepositoryOptions, write_repository
from coda_runtime.triton.configs import ENSEMBLES, ensemble_config, part_config
from coda_runtime.triton.pbtxt import render
from coda_runtime.triton.selection import select
from tests.runtime import tiny
from tests.runtime.triton import reading


@pytest.fixture(scope="module")
def repo(sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_repository(sealed, tmp_path_factory.mktemp("triton") / "models").folder


def test_the_files_and_the_configs(repo: Path, sealed: Path) -> None:
    files = sorted(path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file())
    assert files == [
        "decode/1/.gitkeep",
        "decode/config.pbtxt",
        "decoder/1/model.onnx",
        "decoder/config.pbtxt",
        "encode/1/.gitkeep",
        "encode/config.pbtxt",
        "encoder/1/model.onnx",
        "encoder/config.pbtxt",
        "quantizer/1/model.onnx",
        "quantizer/config.pbtxt",
    ]
    configs = reading.check(repo)
    for part in ("encoder", "quantizer", "decoder"):
        assert (repo / part / "1" / "model.onnx").read_bytes() == (sealed / f"{part}.fp32.onnx").read_bytes()
        assert configs[part].platform == "onnxruntime_onnx"
        (accelerator,) = configs[part].optimization.execution_accelerators.gpu_execution_accelerator
        assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
        assert not configs[part].dynamic_batching.preferred_batch_size, "of ONNX files no batch is better than another"


def test_names_and_tensors_are_those_of_coda_serve(repo: Path) -> None:
    configs = reading.read(repo)
    for name, source, target in (("encode", "image", "ids"), ("decode", "ids", "image")):
        assert ([t.name for t in configs[name].input], [t.name for t in configs[name].output]) == ([source], [target])
    (image,), (ids,) = configs["encode"].input, configs["encode"].output
    assert list(image.dims) == [tiny.SIZE, tiny.SIZE, 3]
    assert list(ids.dims) == [tiny.TOKENS]


def test_the_ensembles_compute_what_the_runtime_does(repo: Path, tok: coda_runtime.Tokenizer) -> None:
    images = tiny.photos(5)
    ids = reading.run(repo, "encode", {"image": images})["ids"]
    assert ids.dtype == np.int32
    assert np.array_equal(ids, tok.encode(images))
    assert np.array_equal(reading.run(repo, "decode", {"ids": ids})["image"], tok.decode(ids))


def test_a_client_pads_a_prefix_with_what_the_config_tells(repo: Path, tok: coda_runtime.Tokenizer) -> None:
    spec = json.loads(reading.parameters(reading.read(repo)["decode"])["coda.spec"])
    ids = tok.encode(tiny.photos(2))[:, :5]
    padded = np.full((2, spec["num_tokens"]), spec["vocab_size"], np.int32)
    padded[:, :5] = ids
    assert np.array_equal(reading.run(repo, "decode", {"ids": padded})["image"], tok.decode(ids))


def test_where_it_came_from(repo: Path, sealed: Path) -> None:
    bundle = Bundle.open(sealed)
    digest = hashlib.sha256((sealed / "manifest.json").read_bytes()).hexdigest()
    for name, config in reading.read(repo).items():
        told = reading.parameters(config)
        assert (told["coda.manifest_sha256"], told["coda.precision"]) == (digest, "fp32")
        if name in ENSEMBLES:
            assert json.loads(told["coda.made_with"]) == list(bundle.fingerprints)
        else:
            artifact = bundle.manifest.find(name)[0]
            expected = {"model.onnx": {"sha256": artifact.sha256, "parity": artifact.parity}}
            assert json.loads(told["coda.files"]) == expected
        assert (repo / name / "config.pbtxt").read_text().startswith("# Written by coda-runtime ")


def test_on_a_cpu(sealed: Path, tmp_path: Path) -> None:
    options = RepositoryOptions(
        device="cpu", threads=2, instances=3, max_batch=6, max_queue=7, delay_us=0, timeout_ms=9
    )
    made = write_repository(sealed, tmp_path / "models", options)
    configs = reading.check(tmp_path / "models")
    assert made.max_batch == dict.fromkeys(configs, 6)
    for part in ("encoder", "quantizer", "decoder"):
        config = configs[part]
        assert not config.HasField("optimization")
        assert reading.parameters(config)["intra_op_thread_count"] == "2"
        assert [(group.Kind.Name(group.kind), group.count) for group in config.instance_group] == [("KIND_CPU", 3)]
        policy = config.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 9000)
        assert policy.TimeoutAction.Name(policy.timeout_action) == "REJECT"


def test_the_default_batch_follows_the_images(sealed: Path, tmp_path: Path) -> None:
    assert set(write_repository(sealed, tmp_path / "models").max_batch.values()) == {64}


@given(
    st.builds(
        RepositoryOptions,
        device=st.sampled_from(["gpu", "cpu"]),
        max_batch=st.none() | st.integers(1, 4096),
        instances=st.integers(1, 64),
        delay_us=st.integers(0, 10_000_000),
        max_queue=st.integers(1, 1_000_000),
        timeout_ms=st.integers(1, 3_600_000),
    )
)
@settings(max_examples=25)
def test_any_options_make_configs_that_triton_takes(
    sealed: Path, tmp_path_factory: pytest.TempPathFactory, options: RepositoryOptions
) -> None:
    chosen = select(Bundle.open(sealed), options)
    repo = tmp_path_factory.mktemp("models")
    configs = {served.part: part_config(served, tiny.SPEC, options, {}) for served in chosen.parts}
    for name, steps in ENSEMBLES.items():
        configs[name] = ensemble_config(name, [p for p in chosen.parts if p.part in steps], tiny.SPEC, {})
    for name, config in configs.items():
        (repo / name / "1").mkdir(parents=True)
        (repo / name / "config.pbtxt").write_text(render(config))
        if name not in ENSEMBLES:
            (repo / name / "1" / "model.onnx").symlink_to(sealed / f"{name}.fp32.onnx")
    read = reading.check(repo)
    assert all(options.max_batch in (None, config.max_batch_size) for config in read.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tensorrt-rtx"}, "no backend for TensorRT-RTX engines; build TensorRT's"),
        ({"format": "ptx"}, "cannot run the quantizer's PTX kernels"),
        ({"format": "openvino"}, "expected one of auto, onnx, tensorrt"),
        ({"device": "tpu"}, "expected one of gpu, cpu"),
        ({"device": "cpu", "format": "tensorrt"}, "do not run on a CPU"),
        ({"threads": 2}, "threads are those of the CPU"),
        ({"max_batch": 0}, "max_batch is 0; expected 1 to 4096"),
        ({"max_queue": 0}, "max_queue is 0; expected 1 to"),
        ({"instances": 65}, "instances is 65; expected 1 to 64"),
    ],
)
def test_options_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RepositoryOptions(**settings)  # type: ignore[arg-type]


def test_a_precision_that_is_not_there(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"precision is 'bf16', and the bundle has fp32; add it: coda export .* --into"
    ):
        write_repository(sealed, tmp_path / "models", RepositoryOptions(precision="bf16"))
    assert list(tmp_path.iterdir()) == []


def test_bf16_needs_a_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    artifacts = tiny.write_files(folder)
    for part in ("encoder", "decoder"):
        (folder / f"{part}.bf16.onnx").write_bytes((folder / f"{part}.fp32.onnx").read_bytes())
        artifacts.append(tiny.describe(folder, f"{part}.bf16.onnx"))
    seal(folder, Manifest(tiny.SPEC, tuple(artifacts), default_precision="bf16"))
    with pytest.raises(InputError, match="no bf16 convolution for CPUs: serve fp32 there, or take a GPU"):
        write_repository(folder, tmp_path / "models", RepositoryOptions(device="cpu"))
    assert write_repository(folder, tmp_path / "gpu").precision == "bf16"
    told = {name: reading.parameters(config) for name, config in reading.check(tmp_path / "gpu").items()}
    assert "bf16" in (tmp_path / "gpu" / "encoder" / "config.pbtxt").read_text()
    quantizer = json.loads(told["quantizer"]["coda.files"])["model.onnx"]["sha256"]
    assert quantizer == Bundle.open(folder).manifest.find("quantizer")[0].sha256, "float32 whatever the rest is in"
    plain = write_repository(folder, tmp_path / "cpu", RepositoryOptions(device="cpu", precision="fp32"))
    assert plain.precision == "fp32"


def test_a_bundle_without_its_onnx_files(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    artifacts = tiny.write_files(folder)
    (folder / "quantizer.fp32.ptx").write_bytes(b"ptx")
    artifacts[1] = tiny.describe(folder, "quantizer.fp32.ptx")
    seal(folder, Manifest(tiny.SPEC, tuple(artifacts)))
    with pytest.raises(BundleError, match="has no ONNX quantizer in fp32; export it again"):
        write_repository(folder, tmp_path / "models")


def test_a_damaged_bundle_is_not_served(sealed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    tiny.make_bundle(folder)
    with (folder / "decoder.fp32.onnx").open("r+b") as file:
        file.seek(40)
        file.write(b"!")
    with pytest.raises(ChecksumError, match="decoder"):
        write_repository(folder, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_made_by_hand(minimal: Path, tmp_path: Path) -> None:
    write_repository(minimal, tmp_path / "models")
    reading.check(tmp_path / "models")
