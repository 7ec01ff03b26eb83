"""A precision is added to a bundle, and what the bundle has stays."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coda_runtime
from coda_deploy.export import parity_images
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export import DEFAULT_THRESHOLDS, Folded, ParityError, Threshold, add_precisions
from coda_runtime.errors import BundleError, InputError, OutputError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact
from tests.tiny_tokenizers import images, make

LOW = ("fp16", "bf16")
THRESHOLDS = DEFAULT_THRESHOLDS | {name: Threshold(0, 0) for name in LOW}
IMAGES = parity_images(32)


@pytest.fixture
def fp32_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle in fp32 alone, with an engine in it and a README beside; the graphs are exported already."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (folder / "engines").mkdir()
    (folder / "engines" / "encoder.engine").write_bytes(b"built in an hour")
    (folder / "README.md").write_text("mine")
    manifest = Bundle.open(folder).manifest
    for artifact in manifest.artifacts:
        if artifact.precision in LOW:
            (folder / artifact.file).unlink()
    kept = [artifact for artifact in manifest.artifacts if artifact.precision not in LOW]
    file = "engines/encoder.engine"
    engine = Artifact("encoder", "tensorrt-rtx", "fp32", file, *describe_file(folder, file), engine={"library": "x"})
    floors = {"fp32": dataclasses.asdict(DEFAULT_THRESHOLDS["fp32"])}
    provenance = {**manifest.provenance, "floors": floors}
    seal(folder, dataclasses.replace(manifest, artifacts=(*kept, engine), provenance=provenance))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_there_stays(fp32_bundle: Path, folded: Folded, reference: TorchReference, tmp_path: Path) -> None:
    before, old = content(fp32_bundle), Bundle.open(fp32_bundle).manifest
    seen: list[str] = []
    made = add_precisions(
        folded, reference, fp32_bundle, IMAGES, precisions=LOW, thresholds=THRESHOLDS, progress=seen.append
    )
    after = content(fp32_bundle)
    lists = {"manifest.json", "SHA256SUMS"}
    assert {name: data for name, data in before.items() if name not in lists}.items() <= after.items()
    graphs = {f"{part}.{precision}.onnx" for part in ("encoder", "decoder") for precision in LOW}
    assert after.keys() - before.keys() == graphs
    opened = Bundle.open(fp32_bundle)
    opened.verify("always")
    assert opened.manifest == made
    assert (made.precisions, made.default_precision) == (("fp32", "bf16", "fp16"), "fp32")
    assert made.artifacts[: len(old.artifacts)] == old.artifacts
    assert all(artifact.parity for artifact in made.artifacts[len(old.artifacts) :])
    assert made.provenance["source"] == old.provenance["source"]
    assert set(made.provenance["floors"]) == {"fp32", *LOW}
    assert made.provenance["opset"].items() >= old.provenance["opset"].items()
    assert made.provenance["added"]["bf16"]["coda_export"] == coda_runtime.__version__
    assert "exporting the fp16 encoder" in seen
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    given = images(2, 32).numpy()
    with coda_runtime.load(fp32_bundle, precision="fp16") as tok, coda_runtime.load(fp32_bundle) as fp32:
        assert {a.precision for a in tok.artifacts if a.part != "quantizer"} == {"fp16"}
        assert (tok.encode(given) == fp32.encode(given)).mean() > 0.9


def test_engines_of_the_new_precision_are_built_beside_the_old(
    fp32_bundle: Path, folded: Folded, reference: TorchReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def build(folder: Path, manifest: Any, request: Any, **_: Any) -> Any:
        asked.append(request)
        return manifest

    monkeypatch.setattr("coda_export.extension.build_into", build)
    monkeypatch.setattr("coda_export.extension.check_request", lambda _: None)
    request = coda_runtime.build.bundle.EngineRequest("tensorrt-rtx")
    add_precisions(
        folded, reference, fp32_bundle, IMAGES, precisions=["fp16"], thresholds=THRESHOLDS, engines=[request]
    )
    assert [engine.precisions for engine in asked] == [("fp16",)]


@pytest.mark.parametrize(
    ("precisions", "error", "message"),
    [
        (["fp16", "fp32"], InputError, r"has fp32 already: name precisions that it lacks, or .* --force"),
        (["int4"], InputError, "precision 'int4' is unknown"),
        ([], InputError, "at least one, found none"),
        (["bf16"], OutputError, r"holds 'decoder\.bf16\.onnx', which is not the bundle's and would be lost"),
    ],
)
def test_what_is_refused_before_anything_is_exported(
    fp32_bundle: Path,
    folded: Folded,
    reference: TorchReference,
    precisions: list[str],
    error: type[Exception],
    message: str,
) -> None:
    (fp32_bundle / "decoder.bf16.onnx").write_bytes(b"mine")
    before = content(fp32_bundle)
    with pytest.raises(error, match=message):
        add_precisions(folded, reference, fp32_bundle, IMAGES, precisions=precisions, thresholds=THRESHOLDS)
    assert content(fp32_bundle) == before


def test_a_tokenizer_of_another_shape(fp32_bundle: Path) -> None:
    other = make(scales=(1, 2, 8))
    with pytest.raises(InputError, match="is of another tokenizer, of other sizes"):
        add_precisions(fold_tokenizer(other), TorchReference(other), fp32_bundle, IMAGES, precisions=["fp16"])


def test_a_failure_leaves_the_bundle_as_it_was(
    fp32_bundle: Path, folded: Folded, reference: TorchReference, tmp_path: Path
) -> None:
    before = content(fp32_bundle)
    with pytest.raises(ParityError, match="the fp16 decoder is"):
        add_precisions(
            folded, reference, fp32_bundle, IMAGES, precisions=["fp16"], thresholds={"fp16": Threshold(0, 200)}
        )
    assert content(fp32_bundle) == before
    (fp32_bundle / "decoder.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"decoder\.fp32\.onnx"):
        add_precisions(folded, reference, fp32_bundle, IMAGES, precisions=["fp16"], thresholds=THRESHOLDS)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_somebody_else_changed_meanwhile(
    fp32_bundle: Path, folded: Folded, reference: TorchReference
) -> None:
    def progress(text: str) -> None:
        if text == "comparing the fp16 decoder with the tokenizer":
            manifest = fp32_bundle / "manifest.json"
            manifest.write_bytes(manifest.read_bytes() + b"\n")

    with pytest.raises(OutputError, match="was changed while a precision was added to it"):
        add_precisions(
            folded, reference, fp32_bundle, IMAGES, precisions=["fp16"], thresholds=THRESHOLDS, progress=progress
        )
    assert not (fp32_bundle / "encoder.fp16.onnx").exists()


def test_the_quantizer_stays_to_the_byte(fp32_bundle: Path, folded: Folded, reference: TorchReference) -> None:
    """So tokens that were made with it stay its own, and engines built of it load."""
    signs = Bundle.open(fp32_bundle).fingerprints
    add_precisions(folded, reference, fp32_bundle, IMAGES, precisions=["fp16"], thresholds=THRESHOLDS)
    assert Bundle.open(fp32_bundle).fingerprints == signs
    table = np.load(fp32_bundle / "codebook.fp32.npy")
    assert table.shape[0] == folded.spec.vocab_size
