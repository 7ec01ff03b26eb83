"""What an engine computes in, from JSON in the form that TensorRT documents."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from coda_runtime.backends.tensorrt.inspection import check_precision, engine_information
from coda_runtime.errors import BuildError

HALF = "Channel major FP16 format where channel % 8 == 0"
BRAIN = "Row major linear BFloat16 format"
FLOAT = "Row major linear FP32"
DYNAMIC = "N/A due to dynamic shapes"


def layer(kind: str, source: str, target: str | None = None, **more: Any) -> dict[str, Any]:
    def tensor(text: str) -> dict[str, Any]:
        return {"Name": "x", "Location": "Device", "Dimensions": [-1, 128, 32, 32], "Format/Datatype": text}

    return {"Name": "a", "LayerType": kind, "Inputs": [tensor(source)], "Outputs": [tensor(target or source)], **more}


def info(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["image", "latent"]})


def test_what_a_layer_counts_as() -> None:
    text = info(
        layer("CaskConvolution", HALF),
        layer("CaskConvolution", "Row major Half"),
        layer("conv", BRAIN),
        layer("conv", FLOAT, HALF),
        layer("conv", "Row major Int32", FLOAT),
        layer("conv", "Row major Int32"),
        layer("CaskConvolution", DYNAMIC, Weights={"Type": "Half", "Count": 9}),
        layer("CaskConvolution", DYNAMIC),
        layer("Reformat", FLOAT),
    )
    with pytest.raises(BuildError, match=r"convolutions there are 1 in bf16, 3 in fp16, 2 in fp32, 1 in integer: "):
        check_precision(text, "bf16")


def test_int8_is_no_uint8() -> None:
    """The image comes as bytes without a sign, which is no product in int8."""
    read = layer("CaskConvolution", "Row major Int8"), layer("CaskConvolution", "Row major UInt8", FLOAT)
    with pytest.raises(BuildError, match=r"convolutions there are 1 in fp32, 1 in int8: "):
        check_precision(info(*read), "fp16")
    check_precision(info(*read), "int8")


def test_attention_stays_float32_beside_int8() -> None:
    """Its products may outnumber the convolutions, as in a small AutoencoderDC."""
    products = [layer("gemm", FLOAT)] * 9
    check_precision(info(layer("CaskConvolution", "Row major Int8"), *products), "int8")
    with pytest.raises(BuildError, match=r"of its convolutions there are 4 in fp32, 1 in int8: "):
        check_precision(info(layer("conv", "Row major Int8"), *[layer("conv", FLOAT)] * 4, *products), "int8")


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
def test_type_and_format_apart(key: str) -> None:
    """As TensorRT-RTX 1.7 and TensorRT 11 tell them: the format alone names no type."""

    def apart(kind: str) -> dict[str, Any]:
        tensor = {"Name": "x", "Dimensions": [-1, 64], key: kind, "Format": "(Linear) Row major linear format"}
        return {"Name": "a", "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor]}

    check_precision(info(apart("BFloat16"), apart("BFloat16"), apart("Float")), "bf16")
    with pytest.raises(BuildError, match=r"products there are 1 in bf16, 4 in fp32: "):
        check_precision(info(apart("BFloat16"), *[apart("Float")] * 4), "bf16")


@pytest.mark.parametrize("kind", ["correlation", "runtime_fusion"])
def test_convolutions_by_their_names_in_tensorrt_rtx(kind: str) -> None:
    """A bf16 decoder's products of matrices are in float32, so that it depends on the convolutions."""
    products = [layer("gemm", "Float")] * 9
    check_precision(info(layer(kind, "BFloat16"), layer(kind, "Float"), *products), "bf16")
    with pytest.raises(BuildError, match=r"of its convolutions there are 1 in fp32: "):
        check_precision(info(layer(kind, "Float"), layer("gemm", "BFloat16")), "bf16")


def test_the_inspector_is_asked_for_json() -> None:
    inspector = SimpleNamespace(get_engine_information=lambda form: {"json": "text"}[form])
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    assert engine_information(engine, SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json"))) == "text"


@pytest.mark.parametrize(("precision", "form"), [("fp16", HALF), ("bf16", BRAIN)])
def test_low_precision_passes(precision: str, form: str) -> None:
    convolutions = [layer("CaskConvolution", form) for _ in range(5)]
    check_precision(info(*convolutions, layer("Reformat", FLOAT), layer("MatrixMultiply", FLOAT)), precision)


@pytest.mark.parametrize(
    ("precision", "form"),
    [("fp16", FLOAT), ("fp16", BRAIN), ("bf16", HALF), ("bf16", FLOAT), ("fp16", "Row major TF32")],
)
def test_another_precision_inside_fails(precision: str, form: str) -> None:
    text = info(*[layer("CaskConvolution", form) for _ in range(9)], layer("gemm", HALF), layer("Reformat", HALF))
    with pytest.raises(BuildError, match=rf"to compute in {precision}, .*--precision {precision}"):
        check_precision(text, precision)


def test_casts_around_float32_do_not_pass() -> None:
    """An engine whose ends are half and whose products are float32 is secretly float32."""
    text = info(layer("Cast", HALF, FLOAT), layer("CaskConvolution", FLOAT), layer("Cast", FLOAT, HALF))
    with pytest.raises(BuildError, match="1 in fp32"):
        check_precision(text, "fp16")


def test_layers_that_are_fused_into_one() -> None:
    check_precision(info(layer("Myelin", FLOAT, HALF)), "fp16")
    with pytest.raises(BuildError, match="tensors there are 2 in fp32"):
        check_precision(info(layer("Myelin", FLOAT)), "fp16")
    with pytest.raises(BuildError, match="none of any type"):
        check_precision(info(layer("Myelin", DYNAMIC)), "fp16")


def test_float32_is_not_judged() -> None:
    check_precision("not even JSON", "fp32")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[]", "no layers"),
        (info(), "no layers"),
        (info("conv1", "conv2"), "DETAILED"),
        (json.dumps({"Layers": "x"}), "no layers"),
    ],
)
def test_no_information(text: str, why: str) -> None:
    with pytest.raises(BuildError, match=why):
        check_precision(text, "fp16")
