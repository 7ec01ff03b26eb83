"""A repository of TensorRT engines: which are served, by which names, with what is told to whoever runs the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coda_runtime import BundleError, CodaError, EngineMismatchError, InputError
from coda_runtime.build.options import BuildOptions
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.profiles import Batch
from coda_runtime.triton import RepositoryOptions, check_request, write_repository
from tests.runtime.triton import reading
from tests.runtime.triton.conftest import NOT_RUN, PARTS, Engines, engine

Make = Callable[[Engines], Path]
ASKED = RepositoryOptions(format="tensorrt")


def one_each(**changes: Any) -> Engines:
    return lambda folder, sources: [engine(folder, source, **changes) for source in sources]


def test_measured_engines_are_served(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(one_each())
    made = write_repository(bundle, tmp_path / "models")
    configs = reading.check(tmp_path / "models")
    assert made.format == "tensorrt"
    assert made.max_batch == dict.fromkeys(configs, 8)
    assert made.notes == (
        "the server needs TensorRT 11.0.0.14 on linux-x86_64",
        "the engines were tuned on NVIDIA L4: run them on no other model of GPU",
    )
    for part in PARTS:
        config = configs[part]
        assert config.platform == "tensorrt_plan"
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
        assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 8]
        assert not config.HasField("optimization")
        assert not config.cc_model_filenames
        copied = (tmp_path / "models" / part / "1" / "model.plan").read_bytes()
        assert copied == (bundle / f"engines/{part}.fp32.tensorrt-sm89.engine").read_bytes()
        text = (tmp_path / "models" / part / "config.pbtxt").read_text()
        assert "# the server needs TensorRT 11.0.0.14 on linux-x86_64\n" in text


def test_engines_for_several_gpus(with_engines: Make, tmp_path: Path) -> None:
    def engines(folder: Path, sources: list[Artifact]) -> list[Artifact]:
        compatible = BuildOptions((1, 2, 4), hardware="ampere-plus")
        return [
            made
            for source in sources
            for made in (
                engine(folder, source, "sm89"),
                engine(folder, source, "sm120", options=BuildOptions((1, 1, 6))),
                engine(folder, source, "sm80", options=compatible),
            )
        ]

    made = write_repository(with_engines(engines), tmp_path / "models")
    assert made.max_batch["encode"] == 4, "what all of them take"
    configs = reading.check(tmp_path / "models")
    for part in PARTS:
        assert not configs[part].instance_group[0].profile, "each has one"
        names = {"8.9": "model.sm89.plan", "12.0": "model.sm120.plan"}
        assert dict(configs[part].cc_model_filenames) == names
        assert list(configs[part].dynamic_batching.preferred_batch_size) == [1, 2, 4]
        about = json.loads(reading.parameters(configs[part])["coda.files"])
        for name in ("model.plan", *names.values()):
            copied = (tmp_path / "models" / part / "1" / name).read_bytes()
            assert f"{part}.fp32.tensorrt-" in copied.decode()
            assert set(about[name]) == {"sha256", "parity"}


def test_engines_that_were_never_measured_are_served_only_when_asked_for(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(one_each(parity=NOT_RUN))
    made = write_repository(bundle, tmp_path / "auto")
    assert made.format == "onnx"
    (note,) = made.notes
    assert note.startswith("ONNX files are served, not TensorRT engines: engines/encoder.fp32.tensorrt-sm89.engine was")
    assert "coda verify" in note
    asked = write_repository(bundle, tmp_path / "asked", ASKED)
    assert asked.format == "tensorrt"
    assert asked.notes[-1].startswith("never measured: engines/encoder")


def test_version_compatible_engines_tell_the_flag(with_engines: Make, tmp_path: Path) -> None:
    options = BuildOptions(version_compatible=True, hardware="same-compute-capability")
    (note,) = write_repository(with_engines(one_each(options=options)), tmp_path / "models").notes
    assert "--backend-config=tensorrt,version-compatible=true" in note


def test_a_smaller_batch_than_the_engines(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(one_each())
    made = write_repository(bundle, tmp_path / "models", RepositoryOptions(max_batch=3))
    assert (made.format, made.max_batch["encode"]) == ("tensorrt", 3)
    assert list(reading.check(tmp_path / "models")["encoder"].dynamic_batching.preferred_batch_size) == [3]
    with pytest.raises(InputError, match=r"to be 9, and the encoder's engines take 8 images at most"):
        write_repository(bundle, tmp_path / "more", RepositoryOptions(max_batch=9, format="tensorrt"))


def several(*profiles: Batch) -> Engines:
    """An engine of these profiles for each part."""
    return lambda folder, sources: [engine(folder, source).with_profiles(profiles) for source in sources]


def test_a_server_is_told_the_profiles(with_engines: Make, tmp_path: Path) -> None:
    made = write_repository(with_engines(several((1, 1, 1), (2, 16, 32))), tmp_path / "models")
    assert (made.format, made.max_batch["encode"]) == ("tensorrt", 32)
    for part, config in reading.check(tmp_path / "models").items():
        if part in PARTS:
            assert list(config.instance_group[0].profile) == ["0", "1"]
            assert list(config.dynamic_batching.preferred_batch_size) == [1, 16, 32]


def test_a_gap_between_profiles_is_not_served(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(several((1, 1, 1), (8, 16, 32)))
    told = (
        "the encoder's engines take no batch from 2 to 7, and Triton makes batches of any size: serve 1 at most, or "
        "build them with profiles that leave no gap, such as --batch 1,1,7 --batch 8,32,32"
    )
    for asked in (ASKED, RepositoryOptions(format="tensorrt", max_batch=16)):
        with pytest.raises(InputError, match=told):
            write_repository(bundle, tmp_path / "models", asked)
    with pytest.raises(InputError, match="to be 33, and the encoder's engines take 32 images at most"):
        write_repository(bundle, tmp_path / "models", RepositoryOptions(format="tensorrt", max_batch=33))
    made = write_repository(bundle, tmp_path / "models")
    assert made.format == "onnx"
    assert told in made.notes[0]
    small = write_repository(bundle, tmp_path / "small", RepositoryOptions(format="tensorrt", max_batch=1))
    assert (small.format, small.max_batch["encode"]) == ("tensorrt", 1)
    for part in PARTS:
        profiles = list(reading.check(tmp_path / "small")[part].instance_group[0].profile)
        assert profiles == ["0"], "a server would set up the other one for a batch of 1, and not load the model"


def test_engines_of_one_model_have_profiles_of_the_same_numbers(with_engines: Make, tmp_path: Path) -> None:
    def engines(folder: Path, sources: list[Artifact]) -> list[Artifact]:
        return [
            made
            for source in sources
            for made in (
                engine(folder, source, "sm89").with_profiles([(1, 1, 1), (2, 4, 8)]),
                engine(folder, source, "sm120"),
            )
        ]

    told = r"encoder's engines have different batch profiles \(.*sm89.*: 1,1,1 2,4,8, .*sm120.*: 1,4,8\)"
    with pytest.raises(BundleError, match=told):
        write_repository(with_engines(engines), tmp_path / "models", ASKED)


def test_rtx_engines_have_no_backend(with_engines: Make, tmp_path: Path) -> None:
    bundle = with_engines(one_each(library="tensorrt-rtx"))
    with pytest.raises(BundleError, match=r"\(only TensorRT-RTX's, for which Triton has no backend\); build it on"):
        write_repository(bundle, tmp_path / "models", ASKED)
    made = write_repository(bundle, tmp_path / "models")
    assert made.format == "onnx"
    assert "TensorRT-RTX" in made.notes[0]
    cpu = write_repository(bundle, tmp_path / "cpu", RepositoryOptions(device="cpu"))
    assert cpu.notes == (), "nobody serves engines on a CPU"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"options": BuildOptions((2, 4, 8))}, InputError, "take 2 images at least, and Triton also runs single ones"),
        ({"os": "windows-x86_64"}, EngineMismatchError, "built on windows-x86_64, and Triton's containers run Linux"),
        ({"onnx": {"file": "x", "sha256": "0" * 64}}, EngineMismatchError, "it was built from another encoder.fp32"),
        ({"targets": ["turing"]}, CodaError, "is for 'turing' by the manifest; expected a name such as sm89"),
        ({"targets": []}, EngineMismatchError, "does not say which GPUs it was built for"),
        ({"batch": None}, EngineMismatchError, "the manifest does not say what it was built for"),
    ],
)
def test_engines_that_no_server_could_run(
    with_engines: Make, tmp_path: Path, changes: dict[str, Any], error: type[CodaError], message: str
) -> None:
    bundle = with_engines(one_each(**changes))
    with pytest.raises(error, match=message):
        write_repository(bundle, tmp_path / "models", ASKED)
    made = write_repository(bundle, tmp_path / "models")
    assert made.format == "onnx"
    assert message in made.notes[0]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (lambda part: [("sm89", {})] if part != "decoder" else [], "has no TensorRT engine for the decoder in fp32"),
        (
            lambda part: [("sm89" if part == "encoder" else "sm80", {})],
            r"different GPUs \(encoder: sm89; quantizer: sm80",
        ),
        (lambda part: [("sm89", {"library_version": f"11.{len(part)}"})], "several versions of TensorRT"),
        (
            lambda part: [("sm89", {}), ("sm089", {"targets": ["sm89"], "gpu": "NVIDIA L40"})],
            "for the same compute capability",
        ),
    ],
)
def test_engines_that_do_not_go_together(
    with_engines: Make, tmp_path: Path, which: Callable[[str], list[tuple[str, dict[str, Any]]]], message: str
) -> None:
    bundle = with_engines(
        lambda folder, sources: [engine(folder, s, target, **more) for s in sources for target, more in which(s.part)]
    )
    with pytest.raises(BundleError, match=message):
        write_repository(bundle, tmp_path / "models", ASKED)
    assert not (tmp_path / "models").exists()


def test_what_is_known_before_engines_are_built() -> None:
    check_request(ASKED, ["fp32"], [[(1, 4, 8)]])
    check_request(ASKED, ["fp32"], [[(1, 1, 1), (2, 4, 8)]])
    check_request(RepositoryOptions(), ["fp32"], [])
    for options, precisions, batches, message in (
        (ASKED, ["fp32"], [], "none is built: add --engine tensorrt"),
        (ASKED, ["fp32"], [[(2, 4, 8)]], "take 2 images at least"),
        (ASKED, ["fp32"], [[(1, 1, 1), (4, 4, 8)]], "the engines take no batch from 2 to 3"),
        (RepositoryOptions(format="tensorrt", max_batch=9), ["fp32"], [[(1, 4, 8)]], "to be 9, and the engines take 8"),
        (RepositoryOptions(device="cpu"), ["bf16", "fp32"], [], "no bf16 convolution"),
        (RepositoryOptions(precision="fp16"), ["bf16", "fp32"], [], "the bundle has bf16, fp32"),
    ):
        with pytest.raises(InputError, match=message):
            check_request(options, precisions, batches)
