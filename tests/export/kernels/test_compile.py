"""The kernels compiled ahead of time: every target, one PTX file, nothing in it that rounds or writes more; its ids."""

from __future__ import annotations

import dataclasses
import importlib
import re

import numpy as np
import pytest

from coda_export.kernels import DEFAULT_TARGET, PTX_ISA, compile_quantizer, search_tables
from coda_export.kernels.blocks import DEFAULT_BLOCKS, SearchBlock, specialise
from coda_runtime.backends.ptx import KernelSet
from coda_runtime.backends.ptx.screening import STEP
from coda_runtime.errors import BuildError, InputError, MissingDependencyError
from tests.export.kernels.cases import (
    SMALL_BLOCKS,
    make_spec,
    random_latent,
    random_quantizer,
    reference,
    run_kernels,
    small_quantizer,
    some_targets,
)
from tests.export.kernels.conftest import Compiled

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("target", some_targets(*PTX_ISA))
def test_every_target(compiled: Compiled, target: str) -> None:
    ptx, kernels = compiled(target)
    assert (kernels.targets, kernels.ptx_isa) == ((target,), PTX_ISA[target])
    assert KernelSet.from_json(kernels.to_json()) == kernels
    functions = ["pool"] * 3 + ["search", "merge", "screen", "settle", "subtract"]
    assert [kernel.function for kernel in kernels.kernels] == functions
    modules = kernels.modules(ptx)
    assert b"".join(modules.values()) == ptx
    for kernel in kernels.kernels:
        text = modules[kernel.entry].decode("ascii")
        assert re.findall(r"^\.visible \.entry (\w+)\(", text, re.MULTILINE) == [kernel.entry]
        assert re.findall(r"^\.version (\S+)$", text, re.MULTILINE) == [PTX_ISA[target]]
        assert re.findall(r"^\.target (sm_\d+)a?", text, re.MULTILINE) == [target.replace("sm", "sm_")]
        assert re.findall(r"\.reqntid (\d+)", text) == [str(32 * kernel.warps)]
        # Float32 all the way but where halves screen: their products are the only ones of tensor cores.
        assert not re.search(r"\.bf16|tf32|wgmma|tcgen", text)
        assert set(re.findall(r"\bmma\.\S+", text)) == {
            "screen": {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"}
        }.get(kernel.function, set())
        assert (".f16" in text) == (kernel.function in ("screen", "settle"))
        # And as IEEE has it: no division or root that is approximate, no exponential (all are), no denormals cut to 0.
        assert not re.search(r"\.approx|\.full|\.ftz|\.rz\.f32|\.sat", text)
        assert ("div.rn.f32" in text) == (kernel.function not in ("merge", "subtract"))
        assert ("sqrt.rn.f32" in text) == (kernel.function in ("search", "screen", "settle"))
        assert "/" not in re.sub(r"//.*", "", text), "a path of the machine that compiled it"
        count = text.count(".param .u64 .ptr .global") + len(re.findall(r"\.param \.[fu]32", text))
        assert count == len(kernel.arguments) + kernel.hidden


# All of the table in a loop, in two shares, and every chunk on its own.
@pytest.mark.parametrize("programs", [1, 10, 1000])
@pytest.mark.parametrize("target", some_targets(*PTX_ISA))
@pytest.mark.parametrize("screen_from", [1, 1000], ids=["screened", "searched"])
def test_every_target_finds_the_reference_s_ids(
    target: str, programs: int, screen_from: int, compiled: Compiled
) -> None:
    quantizer = small_quantizer()
    latent = random_latent(quantizer, 2)
    ids = run_kernels(compiled(target), quantizer, latent, programs, screen_from)
    np.testing.assert_array_equal(ids, reference(quantizer).ids(latent))
    assert len(np.unique(ids)) > 3


def test_the_search_writes_a_score_and_a_code_for_each_token_and_split(compiled: Compiled) -> None:
    ptx, kernels = compiled(DEFAULT_TARGET)
    (search,) = kernels.of("search")
    text = kernels.modules(ptx)[search.entry].decode("ascii")
    loop = re.search(r"\$L__BB0_(\d+):.*?bra \t?\$L__BB0_\1;", text, re.DOTALL)
    assert loop is not None, "the loop over the chunks"
    # The logits are made and compared inside the loop; memory is written only after it.
    assert loop[0].count("fma.rn.f32") >= 16
    assert "st.global" not in loop[0]
    assert len(re.findall(r"st\.global\S*\.b32", text)) == 2


@pytest.mark.slow
def test_the_same_bytes_again(compiled: Compiled) -> None:
    quantizer = small_quantizer()
    again = compile_quantizer(quantizer.spec, search_tables(quantizer.search), blocks=SMALL_BLOCKS)
    assert again == {DEFAULT_TARGET: compiled(DEFAULT_TARGET)}


def test_published_sizes() -> None:
    spec = make_spec(65536, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), 16)
    found = specialise(spec)
    assert [item.sizes["WINDOW"] for item in found if item.function == "pool"] == [1, 2, 4, 8, 16, 32]
    searches = [item.sizes for item in found if item.function == "search"]
    assert [(sizes["CODES"], sizes["CHANNELS_PADDED"], sizes["QUERY"]) for sizes in searches] == [(65536, 16, 0)] * 2
    # A table of any length is filled up to whole blocks, and a query to what a dot product takes.
    odd = [item.sizes for item in specialise(make_spec(1001, (2,), 17), 20) if item.function == "search"]
    step = max(STEP, *(block.codes for block in DEFAULT_BLOCKS.search))
    assert {(sizes["CODES"], sizes["CHANNELS_PADDED"], sizes["QUERY"], sizes["QUERY_PADDED"]) for sizes in odd} == {
        (1001 + -1001 % step, 32, 20, 32)
    }


def test_what_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = random_quantizer(20, (2,))
    tables = search_tables(quantizer.search)
    for targets in ((), ("sm80", "sm75"), ("cuda",)):
        with pytest.raises(InputError, match="expected some of sm80"):
            compile_quantizer(quantizer.spec, tables, targets=targets)
    pytest.importorskip("triton")
    odd = dataclasses.replace(SMALL_BLOCKS, search=(SearchBlock(16, 48),))
    with pytest.raises(BuildError, match=r"cannot compile search .* for sm80"):
        compile_quantizer(quantizer.spec, tables, blocks=odd)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install .triton>="):
        compile_quantizer(quantizer.spec, tables)


@pytest.mark.parametrize(
    ("name", "instruction"), [("divide", r"div\.full\.f32"), ("root", r"sqrt\.approx\.(ftz\.)?f32")]
)
def test_approximate_arithmetic_is_rejected(name: str, instruction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton divides unless it is told not to: 2 units in the last place, which may be another token."""
    pytest.importorskip("triton")
    quantizer = random_quantizer(20, (2,))
    kernel = getattr(importlib.import_module("tests.export.kernels.approximate"), name)
    monkeypatch.setattr("coda_export.kernels.source.pool", kernel)
    with pytest.raises(BuildError, match=rf"compiled {name} to {instruction}, and ids need IEEE float32; .*triton"):
        compile_quantizer(quantizer.spec, search_tables(quantizer.search), blocks=SMALL_BLOCKS)


def test_search_tables_are_the_folded_search() -> None:
    plain, normed = random_quantizer(norm="rms").search, random_quantizer(norm="layer").search
    np.testing.assert_array_equal(search_tables(plain).table, plain.table.numpy())
    assert search_tables(plain).spread is None
    assert normed.spread is not None
    np.testing.assert_array_equal(search_tables(normed).spread, normed.spread.numpy())
    assert search_tables(normed).eps == normed.eps > 0
