"""The table of parts says what the graphs of a bundle take and give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest

from coda_runtime.format.parts import IDS, IMAGE, LATENT, OPERATIONS, PARTS, has_precisions
from tests.runtime import tiny


def described(value: Any) -> tuple[str, Any, list[int]]:
    """An input or output of a graph: name, dtype, shape without the batch."""
    kind = value.type.tensor_type
    return value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), [d.dim_value for d in kind.shape.dim[1:]]


@pytest.mark.parametrize("name", PARTS)
def test_a_graph_has_the_tensors_of_its_part(sealed: Path, name: str) -> None:
    part, graph = PARTS[name], onnx.load(sealed / f"{name}.fp32.onnx").graph
    for tensor, found in ((part.input, graph.input), (part.output, graph.output)):
        assert [described(value) for value in found] == [(tensor.name, tensor.dtype, list(tensor.row(tiny.SPEC)))]
        assert tensor.shape(tiny.SPEC, 3) == (3, *tensor.row(tiny.SPEC))


def test_each_part_of_an_operation_takes_what_the_one_before_gives() -> None:
    for operation, names in OPERATIONS.items():
        assert all(PARTS[a].output is PARTS[b].input for a, b in pairwise(names)), operation
    ends = {name: (PARTS[run[0]].input, PARTS[run[-1]].output) for name, run in OPERATIONS.items()}
    assert ends == {
        "encode": (IMAGE, IDS),
        "quantize": (LATENT, IDS),
        "decode": (IDS, IMAGE),
        "reconstruct": (IMAGE, IMAGE),
    }


def test_the_quantizer_is_float32_in_every_tokenizer() -> None:
    asked = {name: part.precision_in("bf16") for name, part in PARTS.items()}
    assert asked == {"encoder": "bf16", "quantizer": "fp32", "decoder": "bf16"}
    assert [name for name in (*PARTS, "codebook", "search") if has_precisions(name)] == ["encoder", "decoder"]


def test_dtypes_as_servers_name_them() -> None:
    assert [tensor.datatype for tensor in (IMAGE, LATENT, IDS)] == ["UINT8", "FP32", "INT32"]
