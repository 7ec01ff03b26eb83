"""Runs a launch plan by Triton's interpreter, on the CPU.

In a process of its own: Triton decides when it is imported whether its functions are interpreted or compiled, and the
tests of the compiler need the other kind.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from coda_export.folding.modules import FoldedQuantizer
from coda_export.kernels.blocks import Blocks, MergeBlock, SearchBlock, SettleBlock, specialise
from coda_export.kernels.compile import PTX_ISA, arguments, query_length
from coda_export.kernels.tables import search_tables
from coda_runtime.backends.ptx import Kernel, KernelSet, Plan, SearchTables, device_tables, make_plan
from coda_runtime.backends.ptx.screening import FROM_TOKENS
from coda_runtime.format.spec import Spec

# The interpreter's time goes with the number of steps, not with their size.
LARGE = Blocks(
    (SearchBlock(16, 4096), SearchBlock(64, 2048)), (MergeBlock(16, 64), MergeBlock(4, 256)),
    (SearchBlock(64, 256),), (SettleBlock(16, 64),), 1024, 1024,
)  # fmt: skip
# Several blocks, splits and chunks even of small cases.
SMALL = Blocks(
    (SearchBlock(4, 32), SearchBlock(16, 16)), (MergeBlock(8, 8), MergeBlock(2, 16)),
    (SearchBlock(16, 64),), (SettleBlock(4, 8),), 64, 64,
)  # fmt: skip


def uncompiled(spec: Spec, tables: SearchTables, blocks: Blocks) -> KernelSet:
    """The kernels as `compile_quantizer` describes them, without their PTX."""
    kernels = [
        Kernel(item.function, f"{item.function}_{place}", arguments(item.function), item.sizes, item.warps, bytes=1)
        for place, item in enumerate(specialise(spec, query_length(tables), blocks))
    ]
    return KernelSet(tuple(kernels), ("sm80",), PTX_ISA["sm80"], "0")


class Interpreter:
    """One process with TRITON_INTERPRET=1."""

    def __init__(self) -> None:
        # The variable has to be there when the process starts: PyTorch may import Triton.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), warnings.simplefilter, ("error",))
            assert self._pool.submit(os.getenv, "TRITON_INTERPRET").result() == "1"

    def ids(
        self,
        quantizer: FoldedQuantizer,
        latent: np.ndarray,
        blocks: Blocks = SMALL,
        programs: int = 512,
        screen_from: int = FROM_TOKENS,
    ) -> np.ndarray:
        """The quantizer's ids as its kernels find them."""
        spec, tables = quantizer.spec, search_tables(quantizer.search)
        kernels = uncompiled(spec, tables, blocks)
        plan = make_plan(kernels, spec, len(latent), eps=tables.eps, programs=programs, screen_from=screen_from)
        arrays = device_tables(kernels, spec, tables, quantizer.search.values.numpy())
        return self.run(plan, arrays, latent)["ids"]

    def run(self, plan: Plan, tables: Mapping[str, Any], latent: np.ndarray) -> dict[str, np.ndarray]:
        """All buffers after the plan's launches."""
        return self._pool.submit(_run, plan, tables, latent).result()

    def close(self) -> None:
        self._pool.shutdown()


def _run(plan: Plan, tables: Mapping[str, Any], latent: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    source = importlib.import_module("coda_export.kernels.source")
    # What a kernel fails to write is seen: NaN, or an id that does not exist.
    buffers = {
        name: torch.full(
            buffer.shape, torch.nan if buffer.dtype == "float32" else -1, dtype=getattr(torch, buffer.dtype)
        )
        for name, buffer in plan.buffers.items()
    }
    buffers["latent"].copy_(torch.from_numpy(latent.copy()))
    constants = {name: torch.from_numpy(array.copy()) for name, array in tables.items()}
    arrays = {**constants, **buffers}
    for launch in plan.launches:
        values = [arrays[value] if isinstance(value, str) else value for value in launch.arguments]
        with np.errstate(invalid="ignore"):  # of infinite latents
            getattr(source, launch.kernel.function)[launch.grid](*values, **launch.kernel.sizes)
    assert np.array_equal(buffers["latent"].numpy(), latent, equal_nan=True), "a kernel wrote to its input"
    assert all(torch.equal(constants[name], torch.from_numpy(array.copy())) for name, array in tables.items())
    return {name: array.numpy() for name, array in buffers.items()}
