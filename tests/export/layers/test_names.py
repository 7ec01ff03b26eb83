"""Every layer of a graph has the path of the module that it was, in each family of VAEs and each precision."""

from __future__ import annotations

from typing import cast

import onnx
import pytest
from torch import nn

from coda_export.layers import EMBEDDED, PIXELS, layers_of
from tests import tiny_tokenizers
from tests.export.layers.spoilt import graph

WITH_WEIGHTS = (nn.Conv2d, nn.GroupNorm, nn.Linear)
BLOCKS = ("ResnetBlock2D", "Attention", "Upsample2D")
FOLDED_AWAY = {"quant_conv"}


def modules(family: str, part: str) -> set[str]:
    """The paths of what has weights, and of the blocks, in a VAE without LoRA."""
    vae = cast(nn.Module, tiny_tokenizers.make_vae(family))
    kept = {
        name
        for name, module in vae.named_modules()
        if isinstance(module, WITH_WEIGHTS) or type(module).__name__ in BLOCKS
    }
    own = {name for name in kept if name.startswith(f"{part}.") or (part == "decoder" and name == "post_quant_conv")}
    # Of upsampling and its convolution four are made, with the path of the block.
    return {name for name in own if not (".upsamplers." in name and name.endswith(".conv"))} - FOLDED_AWAY


@pytest.mark.parametrize(("family", "precision"), [("flux", "fp32"), ("mar", "fp32"), ("mar", "bf16")])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_module_is_a_layer(family: str, precision: str, part: str) -> None:
    layers = layers_of(graph(family, part, precision))
    paths = [layer.path for layer in layers]
    ends = {PIXELS} if part == "encoder" else {EMBEDDED, "image"}
    four = {path for path in paths if ".weights." in path}
    assert set(paths) == modules(family, part) | ends | four
    assert len(four) == (0 if part == "encoder" else 8)
    assert len(paths) == len(set(paths))
    assert paths[0] == min(ends)
    place = {path: index for index, path in enumerate(paths)}
    for layer in layers[1:]:
        assert layer.inputs, layer.path
        assert all(place[read] < place[layer.path] for read in layer.inputs), layer.path


def test_a_block_reads_what_it_was_given_and_its_last_layer() -> None:
    layers = {layer.path: layer for layer in layers_of(graph("mar", "encoder"))}
    block = layers["encoder.down_blocks.1.resnets.0"]
    assert set(block.inputs) == {f"{block.path}.conv2", f"{block.path}.conv_shortcut"}
    assert layers[f"{block.path}.conv2"].inputs == (f"{block.path}.norm2",)
    assert layers[f"{block.path}.conv1"].shape == (1, 16, 16, 16)


def test_a_quantised_graph_has_the_same_layers() -> None:
    for part in ("encoder", "decoder"):
        model, lowered = graph("mar", part), graph("mar", part, "int8")
        assert {layer.path for layer in layers_of(lowered)} == {layer.path for layer in layers_of(model)}
        made = {name: node.op_type for node in lowered.graph.node for name in node.output}
        convolutions = [layer for layer in layers_of(lowered) if layer.path.endswith("resnets.0.conv1")]
        # Not the convolution's own output, which is of other sizes, nor what is quantised on the way.
        assert {made[layer.tensor] for layer in convolutions} == {"Mul"}


def test_a_graph_without_convolutions_has_no_layers_but_its_output() -> None:
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["latent"], ["image"])],
        "empty",
        [info("latent", onnx.TensorProto.FLOAT, ["batch", 4])],
        [info("image", onnx.TensorProto.FLOAT, ["batch", 4])],
    )
    assert [layer.path for layer in layers_of(onnx.helper.make_model(made))] == ["image"]
