"""Export and verify as functions: which photographs, and which tokenizer a bundle may be verified with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from coda_deploy import calibration, photographs
from coda_deploy.export import (
    MAX_CALIBRATION_IMAGES,
    MAX_PARITY_IMAGES,
    calibration_images,
    export_tokenizer,
    parity_images,
    verify_parity,
)
from coda_export import ParityError
from coda_runtime.errors import ImageError, InputError
from coda_runtime.parity import ParitySamples
from tests.tiny_tokenizers import images, make


def save_images(folder: Path, count: int, size: int = 40) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(images(count, size).numpy()):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    return folder


def test_shipped_photographs_by_default() -> None:
    found = parity_images(64)
    assert found.pixels.shape == (len(photographs.paths()), 64, 64, 3)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.std(axis=(1, 2, 3)).min() > 10, "photographs, not blanks"
    assert found.source == "photographs shipped with coda-deploy"


def test_shipped_photographs_have_their_licences_named() -> None:
    about = (photographs.paths()[0].parent / "LICENSES.md").read_text(encoding="utf-8")
    assert all(path.is_file() for path in photographs.paths())
    assert all(path.stem in about for path in photographs.paths())


def test_calibration_has_photographs_of_its_own() -> None:
    found = calibration_images(64)
    assert found.pixels.shape == (16, 64, 64, 3)
    assert found.pixels.std(axis=(1, 2, 3)).min() > 10, "photographs, not blanks"
    found.check_apart(parity_images(64).pixels)
    assert len({image.tobytes() for image in found.pixels}) == 16
    assert found.names == [f"{name}.jpg" for name in calibration.NAMES]
    about = (calibration.paths()[0].parent / "LICENSES.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\w+\.jpg) \| .+ \| (?:CC-BY\S+|public domain) \| ", about, re.MULTILINE) == found.names
    assert sum(path.stat().st_size for path in calibration.paths()) < 1e6


def test_no_more_to_calibrate_on_than_help(tmp_path: Path) -> None:
    found = calibration_images(8, save_images(tmp_path / "many", MAX_CALIBRATION_IMAGES + 2, 9))
    assert len(found.pixels) == len(found.names) == MAX_CALIBRATION_IMAGES
    assert found.source == f"{MAX_CALIBRATION_IMAGES} of {MAX_CALIBRATION_IMAGES + 2} images of the user's"


def test_the_user_s_photographs(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "pictures" / "nested", 3)
    (folder / "notes.txt").write_text("not a picture")
    found = parity_images(32, tmp_path / "pictures")
    assert found.pixels.shape == (3, 32, 32, 3)
    assert found.source == "3 of 3 images of the user's"


def test_no_more_of_them_than_seconds_allow(tmp_path: Path) -> None:
    found = parity_images(8, save_images(tmp_path / "many", MAX_PARITY_IMAGES + 2, 9))
    assert len(found.pixels) == MAX_PARITY_IMAGES
    assert found.source == f"{MAX_PARITY_IMAGES} of {MAX_PARITY_IMAGES + 2} images of the user's"


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(InputError, match=r"holds no images \(.*\.png.*\): name a folder that does"):
        parity_images(32, tmp_path)


def test_text_named_as_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        parity_images(32, tmp_path)


def test_the_user_s_images_never_enter_the_bundle(
    tiny_folder: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity is measured on them; what is published are the shipped photographs."""
    for part in ("encoder", "decoder"):
        graph = onnx.load(tiny_bundle / f"{part}.fp32.onnx")
        monkeypatch.setattr(f"coda_export.bundle.{part}_graph", lambda *_, graph=graph: graph)
    folder = save_images(tmp_path / "private", 3)
    manifest = export_tokenizer(tiny_folder, tmp_path / "bundle", images=folder)
    for artifact in manifest.artifacts:
        for numbers in artifact.parity.values():
            assert (numbers["images"], numbers["images_from"]) == (3, "3 of 3 images of the user's")
    samples = ParitySamples.load(tmp_path / "bundle" / "parity.fp32.npz", manifest.spec)
    np.testing.assert_array_equal(samples.images, parity_images(32).pixels)
    assert (tmp_path / "bundle" / "parity.fp32.npz").read_bytes() == (tiny_bundle / "parity.fp32.npz").read_bytes()


def test_verify_measures_what_the_export_measured(tiny_bundle: Path, tiny_folder: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    recorded = {a["file"]: a["parity"] for a in manifest["artifacts"] if a["format"] == "onnx" and "fp32" in a["file"]}
    measured = verify_parity(tiny_bundle, tiny_folder)
    assert recorded.items() <= {file: numbers for file, numbers in measured.items() if "fp32" in file}.items()
    assert len(measured) == 7


def test_verify_with_another_tokenizer(tiny_bundle: Path, tmp_path: Path) -> None:
    make(seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"was made of a tokenizer with .*: name the tokenizer it was exported from"):
        verify_parity(tiny_bundle, tmp_path / "other")


def _with_provenance(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy of a bundle whose manifest says something else about where it came from."""
    copy = Path(shutil.copytree(bundle, folder))
    (copy / "SHA256SUMS").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest |= {"provenance": {**manifest["provenance"], **changes}, "checksums": None}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_verify_under_the_threshold_it_was_exported_with(tiny_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    thresholds = {name: {"min_agreement": 0, "min_psnr": 200} for name in ("fp32", "fp16", "bf16")}
    copy = _with_provenance(tiny_bundle, tmp_path / "bundle", floors=thresholds)
    with pytest.raises(
        ParityError, match=r"the \w+ decoder is .* dB from the tokenizer's images, the threshold is 200"
    ):
        verify_parity(copy, tiny_folder)


def test_verify_a_bundle_without_provenance(tiny_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """A bundle made by hand says nothing of its tokenizer, and cannot be verified against one."""
    copy = _with_provenance(tiny_bundle, tmp_path / "bundle", source={})
    with pytest.raises(InputError, match="does not say which tokenizer it was made of"):
        verify_parity(copy, tiny_folder)


def test_verify_a_precision_without_a_threshold(tiny_bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """It is told and not left out; the others are measured."""
    copy = _with_provenance(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        artifact["precision"] = artifact["precision"].replace("fp16", "int4")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    measured = verify_parity(copy, tiny_folder)
    reason = measured["encoder.fp16.onnx"]["onnxruntime:cpu"]["reason"]
    assert reason.startswith("there is no threshold for precision 'int4', only for fp32, fp16, bf16")
    assert measured["encoder.fp32.onnx"]["onnxruntime:cpu"]["step_agreement"] >= 0.999
