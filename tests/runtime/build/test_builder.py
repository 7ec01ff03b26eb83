"""Engines are really built, by TensorRT-RTX: this shows that graphs parse, type and plan, not that engines run."""

from __future__ import annotations

import struct
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from coda_runtime import BuildError
from coda_runtime.backends.tensorrt.library import EngineLibrary
from coda_runtime.build.builder import _configure, _use_timing_cache, build_engine, check_types, parse_network
from coda_runtime.build.log import BuildLog
from coda_runtime.build.options import BuildOptions
from tests.runtime import tiny
from tests.runtime.build.conftest import TARGETS

OPTIONS = BuildOptions((1, 2, 4), TARGETS)
TWO = ((1, 1, 1), (8, 16, 32))


@pytest.mark.parametrize("file", tiny.FILES[:3])
def test_every_part_builds(sealed: Path, rtx: EngineLibrary, file: str) -> None:
    seen: list[tuple[str, int, int]] = []
    made = build_engine(rtx, sealed / file, OPTIONS, precision="fp32", watch=lambda *event: seen.append(event))
    assert len(made.data) > 1000
    products = {k: v for k, v in made.layers.items() if k in ("CONVOLUTION", "MATRIX_MULTIPLY")}
    assert products
    assert all(set(types) == {"FLOAT"} for types in products.values())
    phases = {phase for phase, _, _ in seen}
    assert len(phases) > 2
    assert all(0 <= done <= total for _, done, total in seen)


def test_the_library_is_given_every_profile(sealed: Path, rtx: EngineLibrary) -> None:
    """An engine cannot be opened without a GPU; what it is built by can be asked."""
    options = BuildOptions(TWO, TARGETS)
    file = sealed / "encoder.fp32.onnx"
    parsed = parse_network(rtx, file, file.read_bytes())
    config = parsed.builder.create_builder_config()
    _configure(rtx.module, parsed.builder, parsed.network, config, options)
    assert config.num_optimization_profiles == 2


@pytest.mark.parametrize("file", tiny.FILES[:3])
def test_an_engine_of_two_profiles(sealed: Path, rtx: EngineLibrary, file: str) -> None:
    """Nobody can open it here; but the shapes of each profile lie in it, and the library tells what it planned."""
    (tensor,) = onnx.load(sealed / file).graph.input
    row = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim][1:]

    def shapes(data: bytes) -> set[int]:
        return {n for n in (1, 8, 16, 32) if struct.pack(f"<{len(row) + 1}q", n, *row) in data}

    one, two = (
        build_engine(rtx, sealed / file, BuildOptions(batch, TARGETS), precision="fp32") for batch in (TWO[0], TWO)
    )
    assert shapes(two.data) == {1, 8, 16, 32}
    assert not shapes(one.data) & {16, 32}, "of small numbers, 8 and a row may be there for another reason"
    assert one.scratch_bytes is not None
    assert two.scratch_bytes is not None
    assert len(one.scratch_bytes) == 1
    small, large = two.scratch_bytes
    assert 0 < small < large


def test_a_log_of_other_words_tells_no_memory(rtx: EngineLibrary) -> None:
    log = BuildLog(rtx.module)
    said = log.logger.log
    information = rtx.module.ILogger.Severity.INFO
    assert log.scratch_bytes(1) is None
    said(information, "Total Activation Memory: 512 bytes")
    assert log.scratch_bytes(1) == (512,)
    assert log.scratch_bytes(2) is None
    for message in ("Constructing optimization profile number 1 [2/2].", "Total Activation Memory: 96 bytes"):
        said(rtx.module.ILogger.Severity.VERBOSE, message)
    said(information, "Total Activation Memory: 64 bytes")
    assert log.scratch_bytes(2) == (512, 96)
    assert log.errors == []
    said(rtx.module.ILogger.Severity.ERROR, "it\nfailed")
    assert log.errors == ["it failed"]


def test_what_the_parser_rejects_is_reported_by_node(tmp_path: Path, rtx: EngineLibrary) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="fine"),
        helper.make_node("StringNormalizer", ["y"], ["z"], name="odd"),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in ("x", "z")]
    model = helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]))
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=r"cannot parse odd\.onnx: node odd \(StringNormalizer\): \w+"):
        build_engine(rtx, tmp_path / "odd.onnx", OPTIONS, precision="fp32")


def test_a_damaged_file(tmp_path: Path, rtx: EngineLibrary) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x0anot a model")
    with pytest.raises(BuildError, match=r"cannot parse cut\.onnx: .*export the bundle again"):
        build_engine(rtx, tmp_path / "cut.onnx", OPTIONS, precision="fp32")


def test_an_engine_that_would_secretly_be_float32_fails(sealed: Path, rtx: EngineLibrary) -> None:
    with pytest.raises(BuildError, match=r"encoder\.fp32\.onnx is meant to be bf16, and of its 1 .* 1 in FLOAT"):
        build_engine(rtx, sealed / "encoder.fp32.onnx", OPTIONS, precision="bf16")


@pytest.mark.parametrize(
    ("layers", "precision", "fine"),
    [
        ({"CONVOLUTION": {"HALF": 9, "FLOAT": 1}}, "fp16", True),
        ({"CONVOLUTION": {"HALF": 1, "FLOAT": 3}, "MATRIX_MULTIPLY": {"FLOAT": 9}}, "fp16", True),
        ({"CONVOLUTION": {"HALF": 1, "FLOAT": 4}, "MATRIX_MULTIPLY": {"HALF": 9}}, "fp16", False),
        ({"MATRIX_MULTIPLY": {"HALF": 3, "FLOAT": 9}}, "fp16", True),
        ({"MATRIX_MULTIPLY": {"HALF": 3, "FLOAT": 10}}, "fp16", False),
        ({"CONVOLUTION": {"FLOAT": 9}, "MATRIX_MULTIPLY": {"HALF": 1}}, "fp32", False),
        ({"CONVOLUTION": {"BF16": 9}}, "fp16", False),
        ({"CONVOLUTION": {"FLOAT": 99, "HALF": 1}}, "fp32", False),
        ({"CONVOLUTION": {"FLOAT": 9}, "CAST": {"HALF": 1}}, "fp32", True),
        ({"ACTIVATION": {"HALF": 9}}, "fp16", False),
        ({"CONVOLUTION": {"INT8": 8, "FLOAT": 2}, "MATRIX_MULTIPLY": {"FLOAT": 16}}, "int8", True),
        ({"CONVOLUTION": {"INT8": 2, "FLOAT": 8}, "MATRIX_MULTIPLY": {"FLOAT": 1}}, "int8", False),
    ],
)
def test_the_types_that_count(layers: dict[str, dict[str, int]], precision: str, fine: bool) -> None:
    if fine:
        check_types(layers, precision, "x.onnx")
    else:
        with pytest.raises(BuildError, match=f"x.onnx is meant to be {precision}"):
            check_types(layers, precision, "x.onnx")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_watches_may_stop_the_build(sealed: Path, rtx: EngineLibrary, error: type[BaseException]) -> None:
    def stop(*_: object) -> None:
        raise error

    with pytest.raises(error):
        build_engine(rtx, sealed / "decoder.fp32.onnx", OPTIONS, precision="fp32", watch=stop)


def test_the_way_out_of_a_failed_build(sealed: Path, rtx: EngineLibrary) -> None:
    """A flag that needs a GPU, which is not here, fails inside the builder."""
    options = BuildOptions((1, 2, 4), TARGETS)
    object.__setattr__(options, "check_for", lambda _: None)
    object.__setattr__(options, "version_compatible", True)
    with pytest.raises(BuildError, match=r"could not build an engine from encoder\.fp32\.onnx: .{20}"):
        build_engine(rtx, sealed / "encoder.fp32.onnx", options, precision="fp32")


@pytest.mark.parametrize("taken", [True, False])
def test_a_timing_cache_of_another_gpu_is_rejected_before_the_build(tmp_path: Path, taken: bool) -> None:
    """TensorRT's own caches need a GPU: its answer is played."""

    class Config:
        def create_timing_cache(self, data: bytes) -> bytes:
            return data

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert (cache, ignore_mismatch) == (b"measured", False)
            return taken

    (tmp_path / "cache").write_bytes(b"measured")
    if taken:
        _use_timing_cache(Config(), tmp_path / "cache")
    else:
        with pytest.raises(BuildError, match="is for another version or GPU, or damaged; remove it"):
            _use_timing_cache(Config(), tmp_path / "cache")


def test_graphs_of_the_tiny_bundle_take_uint8_only_at_their_ends(sealed: Path) -> None:
    """What TensorRT asks of them, stated without it."""
    for file in tiny.FILES[:3]:
        model = onnx.shape_inference.infer_shapes(onnx.load(sealed / file))
        inner = [info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.UINT8]
        assert not inner
