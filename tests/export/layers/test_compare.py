"""What is healthy keeps its bounds, and whatever is spoilt is named: it, and no layer before or after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.layers import TorchActivations
from coda_deploy.tokenizer.lora import lora_layers
from coda_export.graphs import decoder_graph
from coda_export.layers import Comparison, GraphActivations, Runner, compare
from coda_runtime.backends.base import LoadOptions
from coda_runtime.format.precision import precision_of
from tests import tiny_tokenizers
from tests.export.layers.spoilt import Array, changed, given, graph, one_weight, tokenizer

CONV = "encoder.down_blocks.1.resnets.0.conv2"


def activations(model: onnx.ModelProto, family: str, part: str, precision: str = "fp32") -> GraphActivations:
    runner = Runner(tokenizer(family).spec, part, precision, LoadOptions("cpu", "onnxruntime", threads=1))
    return GraphActivations(model, runner, given(part, tokenizer(family))[:1])


def beside_fp32(model: onnx.ModelProto, precision: str, family: str = "sd", part: str = "encoder") -> Comparison:
    reference = activations(graph(family, part), family, part)
    return compare(part, reference, activations(model, family, part, precision), precision_of(precision).layer_error)


def beside_tokenizer(
    model: onnx.ModelProto, part: str, family: str = "sd", of: CodaTokenizer | None = None
) -> Comparison:
    reference = TorchActivations(of or tokenizer(family), part, given(part, tokenizer(family))[:1])
    return compare(part, reference, activations(model, family, part), precision_of("fp32").layer_error)


def first(comparison: Comparison) -> str | None:
    return None if comparison.first is None else comparison.first.path


# Families differ in attention, in both quant convolutions or none, and in the shift.
@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("sd", "encoder"),
        ("mar", "encoder"),
        ("sd", "decoder"),
        ("mar", "decoder"),
        ("flux", "decoder"),
        ("shifted", "decoder"),
    ],
)
def test_a_graph_does_what_the_modules_do(family: str, part: str) -> None:
    found = beside_tokenizer(graph(family, part), part, family)
    assert first(found) is None
    errors = {row.path: row.error for row in found.rows}
    # Pixels are whole numbers: here and there one lies halfway between two, and errs by a step of the 256.
    assert errors.pop("image", 0.0) < 5e-4
    assert max(errors.values()) < 1e-5
    assert len(found.rows) > 30


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("precision", "family"), [("fp16", "sd"), ("int8", "mar")])
def test_a_healthy_graph_keeps_its_bounds(precision: str, family: str, part: str) -> None:
    found = beside_fp32(graph(family, part, precision), precision, family, part)
    assert first(found) is None
    worst = found.worst
    assert worst is not None
    assert worst.own > precision_of(precision).layer_error / 100, "a bound this far off would hold nothing"
    # What a graph has lost by its end is more than what any layer loses: that is why a layer is judged alone.
    assert found.rows[-1].error > 0


def test_one_changed_weight_is_named() -> None:
    spoilt = changed(graph("sd", "encoder"), f"{CONV}.weight", one_weight)
    found = beside_fp32(spoilt, "fp32")
    assert first(found) == CONV
    assert [row.path for row in found.rows if not row.within] == [CONV], "those after it pass its error on"
    after = found.rows[-1]
    assert after.error > after.bound > after.own
    assert first(beside_tokenizer(spoilt, "encoder")) == CONV


def test_a_lora_branch_that_was_left_out_is_named() -> None:
    whole = tokenizer("sd")
    without = tiny_tokenizers.make("sd")
    path = "decoder.up_blocks.1.resnets.0.conv1"
    with torch.no_grad():
        lora_layers(without.vae)[path].lora_B["default"].weight.zero_()
    found = beside_tokenizer(decoder_graph(fold_tokenizer(without), "fp32", 20), "decoder", of=whole)
    assert first(found) == path


def test_a_wrong_upsampler_is_named() -> None:
    right = graph("sd", "decoder")
    block = "decoder.up_blocks.0.upsamplers.0"
    spoilt = changed(
        right, f"{block.replace('decoder.', 'decoder.decoder.')}.weights.1", lambda array: array[..., ::-1]
    )
    assert first(beside_tokenizer(spoilt, "decoder")) == block
    assert first(beside_fp32(spoilt, "fp32", part="decoder")) == f"{block}.weights.1"


def scales(model: onnx.ModelProto) -> dict[str, str]:
    """By path, the scale of a convolution's weight, and as PATH/input that of what it reads."""
    made = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in made:
            path = made[node.input[1]].input[0].removesuffix("_quantized").removesuffix(".weight")
            found[path] = made[node.input[1]].input[1]
            found[f"{path}/input"] = made[node.input[0]].input[1]
    return found


@pytest.mark.parametrize(
    "which",
    [CONV, f"{CONV}/input", "encoder.down_blocks.1.resnets.0.conv_shortcut", "encoder.mid_block.resnets.0.conv1/input"],
)
def test_a_spoilt_scale_is_named(which: str) -> None:
    healthy = graph("sd", "encoder", "int8")
    spoilt = changed(healthy, scales(healthy)[which], lambda array: array * 8)
    found = beside_fp32(spoilt, "int8")
    assert first(found) == which.removesuffix("/input")
    assert [row.path for row in found.rows if not row.within] == [which.removesuffix("/input")]


@pytest.mark.parametrize("change", [lambda a: a * math.nan, lambda a: a * 1e38], ids=["nan", "overflow"])
def test_what_is_not_finite_is_named(change: Callable[[Array], Array]) -> None:
    with np.errstate(over="ignore"):
        spoilt = changed(graph("sd", "encoder"), f"{CONV}.weight", change)
    found = beside_fp32(spoilt, "fp32")
    assert first(found) == CONV
    row = found.first
    assert row is not None
    figures: dict[str, Any] = row.to_json()
    assert figures["error"] is None
    assert figures["own"] is None
    assert figures["within"] is False


def test_layers_are_compared_a_few_at_a_time() -> None:
    sides = (
        activations(graph("mar", "decoder"), "mar", "decoder"),
        activations(graph("mar", "decoder", "int8"), "mar", "decoder", "int8"),
    )
    whole = compare("decoder", *sides, 0.1)
    asked: list[int] = []
    take = sides[1].values

    def counting(paths: Any) -> Any:
        asked.append(len(paths))
        return take(paths)

    sides[1].values = counting  # type: ignore[method-assign]
    parts = compare("decoder", *sides, 0.1, at_once=20_000)
    assert len(asked) > 5
    assert max(asked) < len(whole.rows)
    assert [row.path for row in parts.rows] == [row.path for row in whole.rows]
    np.testing.assert_allclose([row.own for row in parts.rows], [row.own for row in whole.rows], atol=1e-4)
    np.testing.assert_allclose([row.error for row in parts.rows], [row.error for row in whole.rows], atol=1e-3)
    assert [row.growth is None for row in parts.rows] == [row.growth is None for row in whole.rows]


def test_a_graph_beside_itself_differs_nowhere() -> None:
    found = beside_fp32(graph("sd", "encoder"), "fp32")
    assert {row.error for row in found.rows} == {0.0}
    assert found.rows[0].psnr == math.inf
    assert found.rows[0].to_json()["psnr"] is None
    assert found.rows[1].growth is None
