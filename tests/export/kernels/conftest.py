from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from coda_export.kernels import compile_quantizer, search_tables
from coda_runtime.backends.ptx import KernelSet
from tests.export.kernels.cases import SMALL_BLOCKS, small_quantizer
from tests.export.kernels.interpreter import Interpreter

Compiled = Callable[[str], tuple[bytes, KernelSet]]


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    pytest.importorskip("triton")
    process = Interpreter()
    yield process
    process.close()


@pytest.fixture(scope="session")
def compiled() -> Compiled:
    """What `small_quantizer` is compiled to for a target, by its name."""
    pytest.importorskip("triton")

    @functools.cache
    def compile_small(target: str) -> tuple[bytes, KernelSet]:
        quantizer = small_quantizer()
        tables = search_tables(quantizer.search)
        return compile_quantizer(quantizer.spec, tables, targets=(target,), blocks=SMALL_BLOCKS)[target]

    return compile_small
