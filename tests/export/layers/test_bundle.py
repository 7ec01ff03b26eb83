"""`compare_bundle`: which graphs, where they run, and beside what; and the layer that a failed export names."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from coda_deploy.export import export_tokenizer, extend_bundle, verify_layers
from coda_export import ParityError, Threshold, bundle
from coda_export.layers import PartLayers, check_layers, compare_bundle
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.backends.openvino.backend import OpenVinoBackend
from coda_runtime.errors import ArtifactError, CodaError, InputError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from tests import tiny_tokenizers
from tests.export.layers.spoilt import changed, one_weight

CONV = "encoder.down_blocks.1.resnets.0.conv2"


def compared(folder: Path, **options: Any) -> list[PartLayers]:
    return list(compare_bundle(Bundle.open(folder), LoadOptions(**options)))


def with_graph(source: Path, out: Path, file: str, model: onnx.ModelProto) -> Path:
    """A sealed copy of a bundle in which one graph is another."""
    folder = Path(shutil.copytree(source, out))
    onnx.save(model, folder / file)
    manifest = Bundle.open(source).manifest
    artifacts = [
        dataclasses.replace(a, sha256=describe_file(folder, file)[0], bytes=describe_file(folder, file)[1])
        if a.file == file
        else a
        for a in manifest.artifacts
    ]
    seal(folder, dataclasses.replace(manifest, artifacts=tuple(artifacts)))
    return folder


@pytest.fixture(scope="module")
def spoilt(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with one weight of its fp16 encoder changed."""
    model = onnx.load(tiny_bundle / "encoder.fp16.onnx")
    name = CONV.replace("encoder.", "encoder.inner.")
    return with_graph(
        tiny_bundle,
        tmp_path_factory.mktemp("spoilt") / "bundle",
        "encoder.fp16.onnx",
        changed(model, f"{name}.weight", one_weight),
    )


def test_the_first_lower_precision_stands_beside_fp32(tiny_bundle: Path) -> None:
    opened = Bundle.open(tiny_bundle)
    encoder, decoder = compared(tiny_bundle)
    # The bundle names bf16 before fp16; onnxruntime's CPU provider lacks it, and OpenVINO has it on some processors.
    lacking = OpenVinoBackend().check(opened, opened.manifest.find("encoder", precision="bf16")[0], LoadOptions())
    first = ("bf16", "openvino") if lacking is None else ("fp16", "onnxruntime")
    assert (encoder.precision, encoder.backend, encoder.beside) == (*first, "fp32 on onnxruntime")
    assert [part.comparison.part for part in (encoder, decoder)] == ["encoder", "decoder"]
    assert check_layers(encoder) is None
    told = json.loads(json.dumps(decoder.to_json(), allow_nan=False))
    assert told["layers"][-1]["layer"] == "image"
    assert told["first"] is None


def test_a_spoilt_layer_is_named(spoilt: Path) -> None:
    encoder, decoder = compared(spoilt, precision="fp16")
    problem = check_layers(encoder)
    assert isinstance(problem, ParityError)
    assert f"the fp16 encoder on onnxruntime first leaves its bound at {CONV}: given what fp32 on" in str(problem)
    assert encoder.to_json()["first"] == CONV
    assert check_layers(decoder) is None


def test_another_backend_stands_beside_onnxruntime(tiny_bundle: Path) -> None:
    """Here one that runs a graph with other weights."""

    class Off(OnnxRuntimeBackend):
        name = "off"

        def load(self, opened: Bundle, artifact: Any, options: LoadOptions) -> Any:
            model = onnx.load_from_string(opened.read(artifact))
            for tensor in model.graph.initializer:
                if tensor.name == f"{CONV}.weight":
                    tensor.CopyFrom(
                        onnx.numpy_helper.from_array(one_weight(onnx.numpy_helper.to_array(tensor).copy()), tensor.name)
                    )
            onnx.save(model, opened.folder / artifact.file)
            digest, size = describe_file(opened.folder, artifact.file)
            return super().load(opened, dataclasses.replace(artifact, sha256=digest, bytes=size), options)

    healthy = compared(tiny_bundle, backend=OnnxRuntimeBackend(), precision="fp16")
    assert [part.to_json()["first"] for part in healthy] == [None, None]
    encoder = next(compare_bundle(Bundle.open(tiny_bundle), LoadOptions(backend=Off())))
    assert (encoder.precision, encoder.backend, encoder.beside) == ("fp32", "off", "fp32 on onnxruntime")
    assert encoder.to_json()["first"] == CONV


def test_the_tokenizer_stands_beside_its_default_precision(
    tiny_bundle: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    found = list(verify_layers(tiny_bundle, LoadOptions(), tiny_folder))
    assert [(part.precision, part.beside) for part in found] == [("fp32", "the tokenizer")] * 2
    assert [part.to_json()["first"] for part in found] == [None, None]
    other = tmp_path / "other"
    tiny_tokenizers.make(seed=5).save_pretrained(other)
    with pytest.raises(InputError, match="was made of a tokenizer with weights"):
        list(verify_layers(tiny_bundle, LoadOptions(), other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnxruntime"}, "fp32 on onnxruntime is what layers are compared with: name another --precision"),
        ({"precision": "fp32"}, "fp32 on onnxruntime is what layers are compared with"),
        ({"precision": "int8"}, "precision is 'int8'; this bundle has"),
        (
            {"precision": "bf16", "backend": "onnxruntime", "device": "cpu"},
            "bf16, which onnxruntime's own CPU provider",
        ),
        ({"backend": "tensorrt-rtx"}, "loads no ONNX files|is not installed"),
    ],
)
def test_what_cannot_be_compared(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CodaError, match=message):
        compared(tiny_bundle, **options)


def test_a_bundle_of_one_precision_or_without_samples(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    alone = tuple(a for a in manifest.artifacts if a.precision == "fp32")
    with pytest.raises(InputError, match="has fp32 alone: name --backend or --tokenizer DIR"):
        list(compare_bundle(Bundle(tiny_bundle, dataclasses.replace(manifest, artifacts=alone), b""), LoadOptions()))
    without = tuple(a for a in manifest.artifacts if a.part != "parity")
    with pytest.raises(ArtifactError, match="has no part 'parity'"):
        list(compare_bundle(Bundle(tiny_bundle, dataclasses.replace(manifest, artifacts=without), b""), LoadOptions()))


class TestAnExportThatFails:
    @pytest.fixture(autouse=True)
    def _one_layer_is_spoilt(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the encoder's graph of every precision, its weights negated; the decoder's is as it should be."""

        def encoder(_folded: Any, precision: str, _opset: int) -> onnx.ModelProto:
            model = onnx.load(tiny_bundle / f"encoder.{precision}.onnx")
            name = CONV if precision == "fp32" else CONV.replace("encoder.", "encoder.inner.")
            return changed(model, f"{name}.weight", np.negative)

        monkeypatch.setattr(bundle, "encoder_graph", encoder)
        monkeypatch.setattr(
            bundle, "decoder_graph", lambda _f, precision, _o: onnx.load(tiny_bundle / f"decoder.{precision}.onnx")
        )

    def test_names_the_layer_and_leaves_nothing(self, tiny_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ParityError, match=rf"of the tokens, the threshold is .* first leaves its bound at {CONV}, wh"
        ):
            export_tokenizer(tiny_folder, tmp_path / "bundle")
        assert list(tmp_path.iterdir()) == []

    def test_names_it_where_a_precision_is_added(self, tiny_folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
        manifest = Bundle.open(folder).manifest
        for file in ("encoder.fp16.onnx", "decoder.fp16.onnx"):
            (folder / file).unlink()
        seal(
            folder,
            dataclasses.replace(manifest, artifacts=tuple(a for a in manifest.artifacts if a.precision != "fp16")),
        )
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ParityError, match=f"first leaves its bound at {CONV}"):
            extend_bundle(tiny_folder, folder, precisions=["fp16"])
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_names_the_layer_that_loses_most_where_all_keep_their_bounds(
        self, tiny_folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ParityError, match=r"no layer leaves its bound, and decoder\.\S+ loses most, 0\.00% alone"):
            export_tokenizer(tiny_folder, tmp_path / "bundle", thresholds={"fp32": Threshold(0, 500.0)})
