"""The recorded table: its rule, its form, and that it has the releases that are supported."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.requirements import ONNXRUNTIME_GPU, RANGES
from tests.cuda_kernels import record, table
from tests.cuda_kernels.table import CPU, CUDA, Kernel, expand, merged, shorten

ROOT = Path(__file__).parents[2]
FLOAT, HALF = frozenset({"float"}), frozenset({"float16"})


def test_it_begins_and_ends_with_the_releases_that_are_supported() -> None:
    releases = [*table.read()]
    assert RANGES[ONNXRUNTIME_GPU] == f">={releases[0]}"
    (tested,) = re.findall(r"^onnxruntime-gpu==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert releases[-1] == tested
    minors = [tuple(map(int, name.split(".")[:2])) for name in releases]
    low, high = minors[0][1], minors[-1][1]
    assert minors == [(1, minor) for minor in range(low, high + 1)], "one of each minor version, in order"


@pytest.mark.parametrize(
    ("last", "since", "runs"),
    [
        (None, 11, True),
        (None, 22, False),  # ONNX changed it since, and the kernel does not say that it knows
        (21, 13, True),
        (21, 21, True),
        (21, 22, False),
        (21, 10, False),
    ],
)
def test_which_opsets_a_kernel_counts_for(last: int | None, since: int, runs: bool) -> None:
    assert Kernel(11, last, {"T": FLOAT}).runs(since, {"T": FLOAT}) is runs


def test_which_types_a_kernel_takes() -> None:
    kernel = Kernel(11, None, {"T1": FLOAT | HALF, "T2": frozenset({"int8"})})
    assert kernel.runs(11, {"T1": HALF, "T2": frozenset({"int8"}), "x": HALF})
    assert not kernel.runs(11, {"T1": frozenset({"bfloat16"}), "T2": frozenset({"int8"})})
    assert not kernel.runs(11, {"T1": FLOAT | frozenset({"double"}), "T2": frozenset({"int8"})}), "one of two values"


def test_the_file_is_what_a_recording_writes() -> None:
    """Read and written again it is the same text: nobody edited it, and nothing is lost on the way."""
    data = json.loads(table.FILE.read_text(encoding="utf-8"))
    again = {**data, "kernels": record.compact({name: of.kernels for name, of in table.read().items()})}
    assert record.text(again) == table.FILE.read_text(encoding="utf-8")
    assert data["source"] == record.SOURCE
    assert all("git-commit-id=" in build for build in data["releases"].values()), "what the release says of itself"


def test_the_operators_are_onnx_s_and_their_types_too() -> None:
    for release in table.read().values():
        assert len(release.kernels[CUDA]) > 90
        for operator, kernels in itertools.chain.from_iterable(release.kernels[of].items() for of in (CPU, CUDA)):
            # onnxruntime had some before ONNX did, with an opset of 1.
            for kernel in (kernel for kernel in kernels if onnx.defs.has(operator, kernel.first)):
                schema = onnx.defs.get_schema(operator, kernel.first)
                formal = {*schema.inputs, *schema.outputs}
                known = {name for value in formal for name in (value.name, value.type_str)}
                assert kernel.types.keys() <= known, f"{release.name} {operator}({kernel.first}) {kernel.types.keys()}"


TYPES = st.sets(st.sampled_from(["float", "double", "int64"]), min_size=1).map(frozenset)
KERNELS = st.builds(
    Kernel,
    st.sampled_from([7, 13]),
    st.sampled_from([None, 20]),
    st.dictionaries(st.sampled_from(["T1", "T2"]), TYPES, max_size=2),
)


@given(st.lists(KERNELS, max_size=8))
def test_merging_loses_and_adds_nothing(kernels: list[Kernel]) -> None:
    fewer = merged(kernels)
    assert len(fewer) <= len(kernels)
    for since, first, second in itertools.product((7, 13, 19), ("float", "double", "int64"), ("float", "int64")):
        types = {"T1": frozenset({first}), "T2": frozenset({second})}
        assert any(k.runs(since, types) for k in fewer) == any(k.runs(since, types) for k in kernels)


@given(st.sets(st.integers(0, 30)))
def test_numbers_as_text(numbers: set[int]) -> None:
    assert expand(shorten(numbers)) == numbers
