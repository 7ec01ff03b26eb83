"""What is measured, at which batch sizes, and what is said where something could not be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coda_runtime
from coda_runtime.backends import registry
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.codes.metrics import psnr_per_image
from coda_runtime.errors import (
    ArtifactError,
    ChecksumError,
    EngineMismatchError,
    InputError,
    MissingDependencyError,
)
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.parity import NotMeasured, ParityError, ParityImages, ParityMeter, Threshold, check_threshold
from tests.runtime import measurable, tiny
from tests.runtime.parity.fakes import FakeBackend, from_size, no_memory

Graphs = dict[str, Artifact]
FAKE = LoadOptions("cpu", "fake")
PARTS = ("encoder", "quantizer", "decoder")


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    backend = FakeBackend()
    registry.register("fake", lambda: backend)
    yield backend
    registry.unregister("fake")
    assert backend.open == 0, "every session is closed"


def profiled(artifact: Artifact, *batch: int) -> Artifact:
    return dataclasses.replace(artifact, batch=batch)


def test_onnxruntime_agrees_with_what_was_saved(bundle: Bundle, graphs: Graphs) -> None:
    meter = ParityMeter.of_bundle(bundle)
    for part in ("encoder", "quantizer"):
        numbers = meter.measure(graphs[part])["onnxruntime:cpu"].to_json()
        assert numbers["step_agreement"] == numbers["agreement"] == 1.0
        assert numbers["step_agreement_per_scale"] == numbers["agreement_per_scale"] == [1.0] * 3
        assert "batches" not in numbers
        assert (numbers["images"], numbers["images_from"]) == (5, "samples in the bundle")
    decoder = meter.measure(graphs["decoder"])["onnxruntime:cpu"].to_json()
    assert decoder["psnr"] is None or decoder["psnr"] > 50
    assert decoder["psnr_to_input"] == pytest.approx(decoder["reference_psnr_to_input"], abs=0.1)


def test_the_search_table_is_measured_by_the_reference_s_own_ids(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    assert ParityMeter.of_bundle(bundle).measure_search()["numpy:cpu"].to_json()["step_agreement"] == 1.0

    class Shifted(measurable.NumpyReference):
        def encode(self, latent: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            ids = super().encode(latent).copy()
            ids[:, -1] = (ids[:, -1] + 1) % tiny.CODES
            return ids

    images = ParityImages(tiny.photos(4), "waves")
    numbers = ParityMeter(bundle, Shifted(), images).measure_search()["numpy:cpu"].to_json()
    assert numbers["step_agreement"] == pytest.approx(20 / 21)
    assert numbers["images_from"] == "waves"


@pytest.mark.parametrize("part", PARTS)
def test_a_profile_is_run_at_its_min_opt_and_max(bundle: Bundle, graphs: Graphs, fake: FakeBackend, part: str) -> None:
    found = ParityMeter.of_bundle(bundle).measure(profiled(graphs[part], 1, 4, 8), LoadOptions("cuda", "fake"))
    numbers = found["fake:cuda:3"].to_json()
    assert list(found) == ["fake:cuda:3"], "the device that the session names"
    # Five images: five batches of 1, two of 4, one of 8, filled with copies.
    assert fake.sizes == [1] * 5 + [4] * 2 + [8]
    best = {"psnr": None, "psnr_min": None} if part == "decoder" else {"step_agreement": 1.0}
    assert numbers["batches"] == dict.fromkeys(("1", "4", "8"), best)
    assert {name: numbers[name] for name in best} == best
    assert fake.options[0].device == "cuda"
    assert not fake.options[0].allow_host_code
    ParityMeter.of_bundle(bundle).measure(graphs[part], LoadOptions("cpu", "fake", allow_host_code=True))
    assert fake.options[1].allow_host_code


def test_a_profile_of_one_size(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    numbers = ParityMeter.of_bundle(bundle).measure(profiled(graphs["encoder"], 2, 2, 2), FAKE)["fake:cuda:3"].to_json()
    assert fake.sizes == [2, 2, 2]
    assert numbers["batches"] == {"2": {"step_agreement": 1.0}}


def test_every_profile_is_run_at_its_sizes(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    several = graphs["encoder"].with_profiles([(1, 1, 1), (2, 3, 4)])
    numbers = ParityMeter.of_bundle(bundle).measure(several, FAKE)["fake:cuda:3"].to_json()
    assert list(numbers["batches"]) == ["1", "2", "3", "4"]
    assert set(fake.sizes) == {1, 2, 3, 4}


def test_the_session_s_own_profile_counts_too(
    bundle: Bundle, graphs: Graphs, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.runtime.parity.fakes.FakeSession.batch", (1, 1, 2), raising=False)
    numbers = ParityMeter.of_bundle(bundle).measure(graphs["decoder"], FAKE)["fake:cuda:3"].to_json()
    assert list(numbers["batches"]) == ["1", "2"]


def test_sizes_that_were_asked_for(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    meter = ParityMeter.of_bundle(bundle)
    numbers = meter.measure(profiled(graphs["decoder"], 1, 4, 8), FAKE, batches=[3])["fake:cuda:3"].to_json()
    assert (fake.sizes, list(numbers["batches"])) == ([3, 3], ["3"])
    for batches in ([], [0]):
        with pytest.raises(InputError, match="expected sizes from 1"):
            meter.measure(graphs["decoder"], FAKE, batches=batches)


def test_fewer_images_than_a_batch(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    images = ParityImages(tiny.photos(3), "waves")
    ParityMeter(bundle, measurable.NumpyReference(), images).measure(graphs["encoder"], FAKE)
    assert fake.sizes == [3]


def _flip_last(out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Another id at the last position of the batch's last row, which is a copy."""
    out[-1, -1] = (out[-1, -1] + 1) % tiny.CODES
    return out


def test_the_worst_size_and_the_worst_copy_count(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    fake.spoil = from_size(8, _flip_last)
    numbers = (
        ParityMeter.of_bundle(bundle).measure(profiled(graphs["quantizer"], 1, 4, 8), FAKE)["fake:cuda:3"].to_json()
    )
    wrong = pytest.approx(104 / 105)
    assert numbers["batches"] == {
        "1": {"step_agreement": 1.0},
        "4": {"step_agreement": 1.0},
        "8": {"step_agreement": wrong},
    }
    assert numbers["step_agreement"] == numbers["agreement"] == wrong
    assert numbers["step_agreement_per_scale"] == [1.0, 1.0, pytest.approx(79 / 80)]


def test_the_worst_copy_of_an_image_counts(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    def darken(out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out[-1] //= 2
        return out

    fake.spoil = from_size(8, darken)
    numbers = ParityMeter.of_bundle(bundle).measure(profiled(graphs["decoder"], 1, 1, 8), FAKE)["fake:cuda:3"].to_json()
    assert numbers["batches"]["1"] == {"psnr": None, "psnr_min": None}
    assert numbers["psnr"] == numbers["batches"]["8"]["psnr"] < 20
    assert numbers["psnr_min"] == numbers["batches"]["8"]["psnr_min"] == numbers["psnr"], "the others are identical"
    assert numbers["psnr_to_input"] != numbers["reference_psnr_to_input"]


def test_one_black_image_at_one_size_falls_though_the_mean_does_not(
    bundle: Bundle, graphs: Graphs, fake: FakeBackend
) -> None:
    known = ParityMeter.of_bundle(bundle).samples.decoded

    def spoil(out: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out = out.copy()
        if len(out) == 8:
            # One pixel by one level: far above any floor, and all that pulls the mean up.
            out[:, 0, 0, 0] ^= 1
            out[1] = 0
        else:
            out[:, :8] ^= 1
        return out

    fake.spoil = spoil
    record = ParityMeter.of_bundle(bundle).measure(profiled(graphs["decoder"], 1, 1, 8), FAKE)["fake:cuda:3"]
    numbers = record.to_json()
    black = float(psnr_per_image(np.zeros_like(known[1:2]), known[1:2])[0])
    assert numbers["psnr_min"] == numbers["batches"]["8"]["psnr_min"] == pytest.approx(black)
    assert numbers["psnr"] == numbers["batches"]["8"]["psnr"] > numbers["batches"]["1"]["psnr"] > 50
    with pytest.raises(ParityError, match="the worst image of the fp32 decoder is"):
        check_threshold("decoder", "fp32", record, Threshold(0.999, 50.0))


def test_a_size_that_cannot_run(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    fake.spoil = from_size(8, no_memory)
    numbers = ParityMeter.of_bundle(bundle).measure(profiled(graphs["encoder"], 1, 4, 8), FAKE)["fake:cuda:3"].to_json()
    assert numbers["step_agreement"] is None
    assert numbers["reason"] == "at a batch of 8: no memory left"
    assert numbers["batches"]["4"] == {"step_agreement": 1.0}
    assert numbers["batches"]["8"] == {"step_agreement": None, "reason": "no memory left"}


def test_a_graph_that_does_not_load(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    fake.fails = EngineMismatchError(f"{bundle.folder}/decoder.fp32.onnx is for another GPU")
    found = ParityMeter.of_bundle(bundle).measure(graphs["decoder"], LoadOptions("cuda:1", "fake"))
    reason = "decoder.fp32.onnx is for another GPU"
    assert found == {"fake:cuda:1": NotMeasured(reason, "psnr", images=5, images_from="samples in the bundle")}
    assert json.dumps(found["fake:cuda:1"].to_json()) == (
        f'{{"psnr": null, "reason": "{reason}", "images": 5, "images_from": "samples in the bundle"}}'
    )


def test_a_plugin_that_one_precision_lacks_is_a_reason(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    """onnxruntime is there, and bf16 needs OpenVINO's plugin too: fp32 is measured nevertheless."""
    fake.fails = MissingDependencyError("bf16 needs a plugin", "onnxruntime-ep-openvino")
    numbers = ParityMeter.of_bundle(bundle).measure(graphs["encoder"], LoadOptions("cpu", "fake"))["fake:cpu"].to_json()
    assert numbers["reason"] == 'bf16 needs a plugin; install it: pip install "onnxruntime-ep-openvino>=1.8"'


@pytest.mark.parametrize(
    ("part", "spoil", "match"),
    [
        ("encoder", lambda out: out.astype(np.float16), r"returned float16 \[4, 4, 4, 4\].*expected float32"),
        ("quantizer", lambda out: out[:, 1:], r"returned int32 \[4, 20\]"),
        ("quantizer", lambda out: out + 16, r"gave ids from \d+ to \d+, expected 0 to 15"),
        ("decoder", lambda out: out[:-1], r"returned uint8 \[3, 32, 32, 3\] for a batch of 4"),
    ],
)
def test_nonsense_is_no_reason_but_an_error(
    bundle: Bundle, graphs: Graphs, fake: FakeBackend, part: str, spoil: Callable[[Any], Any], match: str
) -> None:
    """A graph that ran and gave what it must not: no precision may stay unmeasured for that."""
    fake.spoil = spoil
    with pytest.raises(ArtifactError, match=match):
        ParityMeter.of_bundle(bundle).measure(graphs[part], FAKE)


def test_nan_is_measured_as_wrong_tokens(bundle: Bundle, graphs: Graphs, fake: FakeBackend) -> None:
    fake.spoil = lambda out: np.full_like(out, np.nan)
    numbers = ParityMeter.of_bundle(bundle).measure(graphs["encoder"], FAKE)["fake:cuda:3"].to_json()
    assert numbers["step_agreement"] < 0.5
    assert "reason" not in numbers


def test_an_encoder_without_onnxruntime(
    bundle: Bundle, graphs: Graphs, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = MissingDependencyError("running ONNX files needs onnxruntime", "cpu")
    monkeypatch.setattr(OnnxRuntimeBackend, "missing", lambda _: missing)
    meter = ParityMeter.of_bundle(bundle)
    assert meter.measure(graphs["encoder"], FAKE)["fake:cuda:3"].to_json()["step_agreement"] == 1.0
    with pytest.raises(MissingDependencyError, match="needs onnxruntime"):
        meter.measure(graphs["encoder"])


def test_an_encoder_without_any_quantizer(sealed: Path, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle made by hand has no search table: onnxruntime is what would help."""
    missing = MissingDependencyError("running ONNX files needs onnxruntime", "cpu")
    monkeypatch.setattr(OnnxRuntimeBackend, "missing", lambda _: missing)
    bundle = Bundle.open(sealed)
    meter = ParityMeter(bundle, measurable.NumpyReference(), ParityImages(tiny.photos(2), "waves"))
    with pytest.raises(MissingDependencyError, match="needs onnxruntime"):
        meter.measure(bundle.manifest.artifacts[0], FAKE)


def test_a_missing_file_is_an_error(folder: Path, copy: Callable[[Path], Path], graphs: Graphs) -> None:
    broken = copy(folder)
    (broken / "decoder.fp32.onnx").unlink()
    with pytest.raises(ChecksumError, match=r"decoder\.fp32\.onnx is missing"):
        ParityMeter.of_bundle(Bundle.open(broken)).measure(graphs["decoder"])


def test_only_graphs_have_parity(bundle: Bundle, graphs: Graphs) -> None:
    with pytest.raises(InputError, match="is a codebook; parity is measured of encoder, quantizer, decoder"):
        ParityMeter.of_bundle(bundle).measure(graphs["codebook"])


def test_the_new_parts_change_nothing_for_whoever_loads_the_bundle(folder: Path, sealed: Path) -> None:
    with coda_runtime.load(folder) as ours, coda_runtime.load(sealed) as plain:
        assert ours.fingerprints == plain.fingerprints
        assert ours.artifacts == plain.artifacts
        np.testing.assert_array_equal(ours.encode(tiny.photos(2)), plain.encode(tiny.photos(2)))
    assert Bundle.open(folder).manifest.precisions == ("fp32",)
