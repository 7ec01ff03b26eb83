"""What the kernels may cost on each GPU, by the machine code that ptxas makes of their PTX; and that it is float32.

The driver's assembler is the one that counts in the end, and is as new as the driver.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kernel_model.assembly import GPUS, Assembled, assemble, mix
from coda_export.kernels import DEFAULT_BLOCKS, DEFAULT_TARGET, PTX_ISA, compile_quantizer
from coda_runtime.backends.ptx import KernelSet, SearchTables
from tests.export.kernels.cases import make_spec
from tests.export.kernels.conftest import Compiled


@dataclass(frozen=True)
class Budget:
    """Of the search over 16 tokens and over 64 a block: registers at most, blocks a multiprocessor at least."""

    registers: tuple[int, int]
    blocks: tuple[int, int]


# By the GPU and what the PTX was compiled for: sm80's on every later GPU, which is what ships, and each GPU's own.
BUDGETS = {
    ("sm80", "sm80"): Budget((160, 168), (3, 3)),
    ("sm86", "sm80"): Budget((160, 168), (3, 3)),
    ("sm89", "sm80"): Budget((160, 168), (3, 3)),
    ("sm90", "sm80"): Budget((160, 176), (3, 2)),
    ("sm100", "sm80"): Budget((160, 176), (3, 2)),
    ("sm120", "sm80"): Budget((160, 176), (3, 2)),
    **{(gpu, gpu): Budget((168, 168), (3, 3)) for gpu in ("sm86", "sm89", "sm90", "sm100", "sm120")},
}
USUAL = ("sm80", "sm90", "sm120")
"""What is checked at every change, on PTX for sm80; the rest is slow."""
TOKENS = (16, 64)
MULTIPLICATIONS = (0.70, 0.73)
"""Of the main loop's instructions, the least share that multiplies and adds."""


def compile_flux(target: str) -> tuple[bytes, KernelSet]:
    """The kernels at FLUX's sizes, the ones that nobody counts here in one size only."""
    pytest.importorskip("triton")
    spec, tables = make_spec(65536, (32,), 16), SearchTables(np.zeros((65536, 17), np.float32))
    blocks = dataclasses.replace(DEFAULT_BLOCKS, merge=DEFAULT_BLOCKS.merge[:1], settle=DEFAULT_BLOCKS.settle[:1])
    return compile_quantizer(spec, tables, targets=(target,), blocks=blocks)[target]


@pytest.fixture(scope="module")
def flux() -> tuple[bytes, KernelSet]:
    return compile_flux(DEFAULT_TARGET)


def check_search(made: tuple[bytes, KernelSet], gpu: str, budget: Budget, folder: Path) -> None:
    ptx, kernels = made
    found = {kernel.sizes["BLOCK_TOKENS"]: kernel for kernel in kernels.of("search")}
    for place, tokens in enumerate(TOKENS):
        kernel = found[tokens]
        code = assemble(kernels.modules(ptx)[kernel.entry], gpu, folder)
        assert code.spilled == 0
        assert code.registers <= budget.registers[place]
        assert code.blocks(gpu, kernel.warps, kernel.shared) >= budget.blocks[place]
        assert code.count("FFMA", code.loop) >= MULTIPLICATIONS[place] * len(code.loop), mix(code)
        # Every product of the chunk is there, and nothing that takes several cycles or goes to local memory.
        assert code.count("FFMA", code.loop) * 32 * kernel.warps == tokens * kernel.sizes["BLOCK_CODES"] * 16
        assert code.count("MUFU|FCHK|LDL|STL|D(ADD|MUL|FMA)|F2F", code.loop) == 0, mix(code)


# Of the screening: blocks a multiprocessor at least, on PTX for sm80.
SCREENED = {"sm80": 6, "sm86": 5, "sm89": 5, "sm90": 8, "sm100": 6, "sm120": 5}


def check_screen(made: tuple[bytes, KernelSet], gpu: str, folder: Path) -> None:
    ptx, kernels = made
    (kernel,) = kernels.of("screen")
    code = assemble(kernels.modules(ptx)[kernel.entry], gpu, folder)
    assert code.spilled == 0
    assert code.registers <= 140
    assert code.blocks(gpu, kernel.warps, kernel.shared) >= SCREENED[gpu]
    # Every product of the chunk is there, and little more than one comparison a score.
    scores = kernel.sizes["BLOCK_TOKENS"] * kernel.sizes["STEP"] // (32 * kernel.warps)
    assert code.count("HMMA", code.loop) * 4 == scores, mix(code)
    assert code.count("FMNMX", code.loop) <= 1.1 * scores, mix(code)
    assert len(code.loop) <= 2.8 * scores, mix(code)
    assert code.count("MUFU|FCHK|LDL|STL|D(ADD|MUL|FMA)|F2F", code.loop) == 0, mix(code)


@pytest.mark.parametrize("gpu", [gpu if gpu in USUAL else pytest.param(gpu, marks=pytest.mark.slow) for gpu in GPUS])
def test_the_search_keeps_within_its_budget(gpu: str, flux: tuple[bytes, KernelSet], tmp_path: Path) -> None:
    check_search(flux, gpu, BUDGETS[gpu, DEFAULT_TARGET], tmp_path)
    check_screen(flux, gpu, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target in PTX_ISA if target != DEFAULT_TARGET])
def test_the_search_of_every_target_keeps_within_its_budget(target: str, tmp_path: Path) -> None:
    made = compile_flux(target)
    check_search(made, target, BUDGETS[target, target], tmp_path)
    check_screen(made, target, tmp_path)


def check_ieee(text: str, code: Assembled) -> None:
    """Every division and root is the one that IEEE asks for.

    That is an estimate (MUFU), a Newton step, and a check that leads to a slow path for what the step cannot do: of a
    division FCHK, of a root a comparison. Whole numbers are divided by an estimate too, of what I2F rounds up.
    """
    divisions, roots = text.count("div.rn.f32"), text.count("sqrt.rn.f32")
    assert code.count("FCHK") == divisions
    assert code.count(r"CALL\S* .*div_rn_noftz_f32_slowpath") == divisions
    assert code.count(r"CALL\S* .*sqrt_rn_f32_slowpath") == roots
    # A slow path has estimates of its own.
    assert code.count(r"MUFU\.RCP") <= divisions + code.count(r"I2F\S*\.RP") + (divisions > 0)
    assert code.count(r"MUFU\.RSQ") <= roots + (roots > 0) + (divisions > 0)
    assert code.count("MUFU") == code.count(r"MUFU\.(RCP|RSQ)\b")


@pytest.mark.parametrize("gpu", ["sm80", *(pytest.param(gpu, marks=pytest.mark.slow) for gpu in ("sm90", "sm120"))])
def test_nothing_is_approximate(gpu: str, compiled: Compiled, tmp_path: Path) -> None:
    ptx, kernels = compiled(DEFAULT_TARGET)
    for kernel in kernels.kernels:
        module = kernels.modules(ptx)[kernel.entry]
        code = assemble(module, gpu, tmp_path)
        # The screening's PTX of sm80 spills three registers on sm120, which has PTX of its own that spills none.
        assert code.spilled <= (12 if gpu == "sm120" else 0)
        check_ieee(module.decode(), code)


@pytest.mark.parametrize(
    ("exact", "approximate"),
    [("div.rn.f32", "div.full.f32"), ("div.rn.f32", "div.approx.f32"), ("sqrt.rn.f32", "sqrt.approx.f32")],
)
def test_what_is_approximate_is_found(exact: str, approximate: str, compiled: Compiled, tmp_path: Path) -> None:
    ptx, kernels = compiled(DEFAULT_TARGET)
    (search,) = kernels.of("search")
    text = kernels.modules(ptx)[search.entry].decode()
    assert exact in text
    code = assemble(text.replace(exact, approximate, 1).encode(), DEFAULT_TARGET, tmp_path)
    with pytest.raises(AssertionError):
        check_ieee(text, code)
