"""int8 from the exporter to its gate: what it is calibrated on, what the manifest tells, and what fails."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from coda_deploy import CodaTokenizer
from coda_deploy.layers import TorchActivations
from coda_deploy.reference import TorchReference
from coda_export import (
    DEFAULT_THRESHOLDS,
    Calibration,
    Folded,
    ParityError,
    ParityImages,
    Threshold,
    add_precisions,
    export_bundle,
)
from coda_export.layers import compare_bundle
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime import library
from coda_runtime.errors import InputError, MissingDependencyError
from coda_runtime.format.bundle import Bundle, seal
from coda_runtime.format.manifest import Manifest
from coda_runtime.format.parity import Measured
from coda_runtime.parity import measure_bundle
from tests.runtime.tiny import describe
from tests.tiny_tokenizers import images

IMAGES = ParityImages(images(3).numpy(), "random pictures")
CALIBRATION = Calibration(images(4, seed=9).numpy(), ["a.png", "b.png", "c.png", "d.png"], "others")
# Random weights say nothing of what a trained tokenizer loses.
THRESHOLDS = DEFAULT_THRESHOLDS | {"int8": Threshold(0, 15.0, max_psnr_drop=3.0)}


def export(folded: Folded, reference: TorchReference, out: Path, **options: Any) -> Manifest:
    given = {"precisions": ("int8",), "calibration": CALIBRATION, "thresholds": THRESHOLDS, "samples": IMAGES.pixels}
    return export_bundle(folded, reference, out, IMAGES, **(given | options))


@pytest.fixture
def exported(folded: Folded, reference: TorchReference, tmp_path: Path) -> Path:
    export(folded, reference, tmp_path / "exported")
    return tmp_path / "exported"


def test_alone_it_is_the_default_and_judged_by_the_tokenizer(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert (manifest.default_precision, manifest.precisions) == ("int8", ("int8",))
    pixels = hashlib.sha256(CALIBRATION.pixels.tobytes()).hexdigest()
    told = {"images": 4, "images_from": "others", "sha256": pixels}
    assert manifest.provenance["calibration"] == {"int8": told}
    assert manifest.provenance["floors"]["int8"] == {"min_agreement": 0, "min_psnr": 15.0, "max_psnr_drop": 3.0}
    assert all(manifest.provenance["flops"][part] > 0 for part in ("encoder", "decoder"))
    (decoder,) = manifest.find("decoder")
    numbers = decoder.parity["onnxruntime:cpu"]
    assert numbers["psnr_drop"] <= numbers["psnr_drop_max"] <= 12
    (encoder,) = manifest.find("encoder")
    assert 0 < encoder.parity["onnxruntime:cpu"]["step_agreement"] < 1
    assert "psnr_drop" not in encoder.parity["onnxruntime:cpu"]


def test_the_loss_is_that_of_both_parts(exported: Path) -> None:
    """Measured again from the outside: encoder, quantizer and decoder of the bundle, one after the other."""
    import coda_runtime
    from coda_runtime.codes.metrics import psnr_per_image

    bundle = Bundle.open(exported)
    with np.load(exported / "parity.fp32.npz") as samples:
        inputs, theirs = samples["images"], samples["decoded"]
    with coda_runtime.load(exported, device="cpu") as tokenizer:
        ours = tokenizer.decode(tokenizer.encode(inputs))
    drop = psnr_per_image(theirs, inputs) - psnr_per_image(ours, inputs)
    numbers = bundle.manifest.find("decoder")[0].parity["onnxruntime:cpu"]
    assert (numbers["psnr_drop"], numbers["psnr_drop_max"]) == pytest.approx((drop.mean(), drop.max()), abs=1e-6)


def test_beside_fp32_and_equal_twice(folded: Folded, reference: TorchReference, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    manifest = export(folded, reference, out, precisions=("fp32", "int8"))
    assert manifest.precisions == ("fp32", "int8")
    for part in ("encoder", "decoder"):
        assert (out / f"{part}.int8.onnx").read_bytes() == (exported / f"{part}.int8.onnx").read_bytes()
        assert (out / f"{part}.int8.onnx").stat().st_size < (out / f"{part}.fp32.onnx").stat().st_size


def test_added_to_a_bundle(tiny_bundle: Path, folded: Folded, reference: TorchReference, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, out)
    options: dict[str, Any] = {"precisions": ["int8"], "thresholds": THRESHOLDS}
    own = dataclasses.replace(CALIBRATION, pixels=np.concatenate([CALIBRATION.pixels[:3], _samples(out)[:1]]))
    with pytest.raises(InputError, match=r"^d\.png: parity is measured on it"):
        add_precisions(folded, reference, out, IMAGES, calibration=own, **options)
    manifest = add_precisions(folded, reference, out, IMAGES, calibration=CALIBRATION, **options)
    assert set(manifest.precisions) == {"fp32", "fp16", "bf16", "int8"}
    assert manifest.provenance["calibration"]["int8"]["images"] == 4
    assert manifest.provenance["floors"]["int8"]["max_psnr_drop"] == 3.0


def _samples(folder: Path) -> Any:
    with np.load(folder / "parity.fp32.npz") as samples:
        return samples["images"]


def test_images_of_the_gate_are_refused_by_name(folded: Folded, reference: TorchReference, tmp_path: Path) -> None:
    both = np.concatenate([IMAGES.pixels[1:], CALIBRATION.pixels])
    names = ["gate1.png", "gate2.png", *CALIBRATION.names]
    with pytest.raises(InputError, match=r"^gate1\.png, gate2\.png: parity is measured on them, which would flatter"):
        export(folded, reference, tmp_path / "out", calibration=Calibration(both, names, "mixed"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="int8 needs images to take its scales from"):
        export(folded, reference, tmp_path / "out", calibration=None)
    with pytest.raises(InputError, match="calibration has 0 images and 0 names"):
        Calibration(IMAGES.pixels[:0], [], "nothing")


def test_what_fails_the_gate_is_told_of_calibration(folded: Folded, reference: TorchReference, tmp_path: Path) -> None:
    strict = THRESHOLDS | {"int8": Threshold(0, 90.0, max_psnr_drop=3.0)}
    with pytest.raises(ParityError) as caught:
        export(folded, reference, tmp_path / "out", thresholds=strict)
    assert "export with other images to take scales from (--calibration DIR), or accept it with --m" in str(
        caught.value
    )
    assert not (tmp_path / "out").exists()


def measured(folder: Path, part: str) -> float:
    (artifact,) = Bundle.open(folder).manifest.find(part)
    number: float = artifact.parity["onnxruntime:cpu"]["step_agreement" if part == "encoder" else "psnr_min"]
    return number


def test_without_onnxruntime(
    folded: Folded, reference: TorchReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coda_export.int8 import quantize

    monkeypatch.setattr(quantize, "missing", lambda: MissingDependencyError("not installed", extra="cpu"))
    assert library.missing() is None
    with pytest.raises(MissingDependencyError, match="int8 graphs are made by onnxruntime's quantizer"):
        export(folded, reference, tmp_path / "out")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_spoilt_scale_fails_verification_and_its_layer_is_named(exported: Path, tiny_folder: Path, part: str) -> None:
    """One scale of one layer, far too small, in a bundle that was sealed again."""
    path = exported / f"{part}.int8.onnx"
    model = onnx.load(path)
    tables = {table.name: table for table in model.graph.initializer}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scale = tables[rounded[2].input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(32), scale.name))
    (restoring,) = (node for node in model.graph.node if node.input[0] == rounded[2].output[0])
    (reader,) = (node for node in model.graph.node if restoring.output[0] in node.input)
    onnx.save(model, path)
    found = Bundle.open(exported).manifest
    agreement, psnr = measured(exported, "encoder") - 0.02, measured(exported, "decoder") - 0.5
    threshold = {"min_agreement": agreement, "min_psnr": psnr, "max_psnr_drop": 3.0}
    floors = {**found.provenance, "floors": {"int8": threshold}}
    artifacts = tuple(describe(exported, a.file) if a.file == path.name else a for a in found.artifacts)
    seal(exported, dataclasses.replace(found, artifacts=artifacts, provenance=floors))
    missed = [problem for _, _, problem in measure_bundle(Bundle.open(exported)) if problem is not None]
    assert [str(problem).partition("int8 ")[2].split()[0] for problem in missed] == [part]
    parts = ("encoder", "decoder")
    beside = functools.partial(TorchActivations, CodaTokenizer.from_pretrained(tiny_folder))
    compared = compare_bundle(Bundle.open(exported), LoadOptions(precision="int8"), beside)
    layer = reader.input[1].partition(".weight")[0].replace("decoder.decoder.", "decoder.")
    assert [of.to_json()["first"] for of in compared] == [layer if name == part else None for name in parts]


@pytest.mark.filterwarnings("ignore:sums of bytes overflow:RuntimeWarning")
def test_openvino_runs_the_same_graph(exported: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    found = list(measure_bundle(Bundle.open(exported), LoadOptions("cpu", "openvino")))
    measured = {artifact.part: parity["openvino:cpu"] for artifact, parity, _ in found if artifact.precision == "int8"}
    assert measured.keys() == {"encoder", "decoder"}
    assert all(isinstance(record, Measured) for record in measured.values()), measured
    assert [str(missed) for _, _, missed in found if missed is not None] == []
