"""Changes to the launch plan and to the PTX, each of which the interpreter has to find.

Most raise. A change that only gives other ids is found by comparing them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from coda_export.folding import FoldedSearch
from coda_export.kernels import DEFAULT_TARGET, search_tables
from coda_runtime.backends.ptx import Launch, Plan, device_tables, make_plan
from tests.export.kernels.cases import random_latent, small_quantizer
from tests.export.kernels.conftest import Compiled
from tests.runtime.backends.ptx.interpreter.faults import (
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    UninitialisedError,
    UnknownPtxError,
    WriteToInputError,
)
from tests.runtime.backends.ptx.interpreter.plan import run_plan


class OtherIdsError(Exception):
    """The ids are not those that the kernels find unchanged."""


class Runs:
    """The small quantizer by its plan; the second chunk of its table has the first one's codes again."""

    def __init__(self, compiled: Compiled) -> None:
        quantizer = small_quantizer()
        codes = np.arange(quantizer.spec.vocab_size)
        codes[32:64] = codes[:32]
        search = quantizer.search
        tables = search_tables(FoldedSearch(search.table[codes], search.values[codes], search.spread, search.eps))
        ptx, kernels = compiled(DEFAULT_TARGET)
        self.modules, self.functions = kernels.modules(ptx), {it.entry: it.function for it in kernels.kernels}
        # Two shares of the table, of several chunks each; and all of it screened.
        self.plan, self._screened = (
            make_plan(kernels, quantizer.spec, 3, eps=tables.eps, programs=2, screen_from=least) for least in (1000, 1)
        )
        self._arrays = device_tables(kernels, quantizer.spec, tables, search.values[codes].numpy())
        self._latent = random_latent(quantizer, 3)
        self._expected = run_plan(self.plan, self.modules, self._arrays, self._latent)
        assert len(np.unique(self._expected)) > 3

    def with_launches(self, function: str, change: Callable[[Launch], Launch]) -> None:
        """Run with other launches of one function. Raises PtxError, OtherIdsError."""
        plan = self._plan_of(function)
        launches = [change(it) if it.kernel.function == function else it for it in plan.launches]
        self._compare(run_plan(
            dataclasses.replace(plan, launches=tuple(launches)), self.modules, self._arrays, self._latent
        ))  # fmt: skip

    def with_module(self, entry: str, text: str) -> None:
        """Run with another text of one kernel. Raises PtxError, OtherIdsError."""
        plan = self._plan_of(self.functions[entry])
        self._compare(run_plan(plan, {**self.modules, entry: text.encode()}, self._arrays, self._latent))

    def _plan_of(self, function: str) -> Plan:
        return self._screened if function in ("screen", "settle") else self.plan

    def _compare(self, ids: np.ndarray) -> None:
        if not np.array_equal(ids, self._expected):
            raise OtherIdsError


@pytest.fixture(scope="module")
def runs(compiled: Compiled) -> Runs:
    return Runs(compiled)


def argument(launch: Launch, name: str, new: Any) -> Launch:
    """Give a launch another argument; a function makes it of the old one."""
    place = [known for known, _ in launch.kernel.arguments].index(name)
    values = list(launch.arguments)
    values[place] = new(values[place]) if callable(new) else new
    return dataclasses.replace(launch, arguments=tuple(values))


def added(name: str, number: int) -> Callable[[Launch], Launch]:
    return lambda launch: argument(launch, name, lambda old: old + number)


def kernel(launch: Launch, **changes: Any) -> Launch:
    return dataclasses.replace(launch, kernel=dataclasses.replace(launch.kernel, **changes))


def last_block_cut(launch: Launch) -> Launch:
    return dataclasses.replace(launch, grid=(max(1, launch.grid[0] - 1), *launch.grid[1:]))


def last_split_cut(launch: Launch) -> Launch:
    return dataclasses.replace(launch, grid=(launch.grid[0], launch.grid[1] - 1, 1))


# Of every change: the function whose launches it is made to, and what finds it.
LAUNCHES: dict[str, tuple[str, Callable[[Launch], Launch], type[Exception]]] = {
    "no last block of a pool": ("pool", last_block_cut, UninitialisedError),
    "no last block of a search": ("search", last_block_cut, UninitialisedError),
    "no last split of a search": ("search", last_split_cut, UninitialisedError),
    "no last block of a merge": ("merge", last_block_cut, UninitialisedError),
    "no last block of a subtraction": ("subtract", last_block_cut, UninitialisedError),
    "a stride of a split too many": ("merge", added("splits", 1), OutOfBoundsError),
    "a stride of a split too few": ("merge", added("splits", -1), OutOfBoundsError),
    "a token too many": ("search", added("tokens", 1), OutOfBoundsError),
    "a token too few": ("merge", added("tokens", -1), UninitialisedError),
    "an image of a token too many": ("merge", added("places", 1), UninitialisedError),
    "ids that start one too late": ("merge", added("start", 1), OutOfBoundsError),
    "settled ids that start one too late": ("settle", added("start", 1), OutOfBoundsError),
    "no last block of a screening": ("screen", last_block_cut, UninitialisedError),
    "no last token settled": ("settle", last_block_cut, UninitialisedError),
    "a screened token too many": ("screen", added("tokens", 1), OutOfBoundsError),
    "half of the shared memory of a screening": (
        "screen",
        lambda it: kernel(it, shared=it.kernel.shared // 2),
        OutOfBoundsError,
    ),
    "a side too many": ("subtract", added("side", 1), OutOfBoundsError),
    "half of the table": ("search", lambda it: argument(it, "chunks", 1), OtherIdsError),
    "another eps": ("search", lambda it: argument(it, "eps", 9.0), OtherIdsError),
    "another scale's taps": ("subtract", lambda it: argument(it, "taps", "taps.5"), OutOfBoundsError),
    "a residual over the input": ("subtract", lambda it: argument(it, "after", "latent"), WriteToInputError),
    "half of the shared memory": ("search", lambda it: kernel(it, shared=it.kernel.shared // 2), OutOfBoundsError),
    "half of the threads": ("search", lambda it: kernel(it, warps=it.kernel.warps // 2), LaunchError),
    "a parameter too few": ("pool", lambda it: kernel(it, hidden=it.kernel.hidden - 1), LaunchError),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_changed_launch_is_found(name: str, runs: Runs) -> None:
    function, change, error = LAUNCHES[name]
    with pytest.raises(error):
        runs.with_launches(function, change)


# Of every change: the function, what is replaced where it stands first, by what, and what finds it.
TEXTS: dict[str, tuple[str, str, str, type[Exception]]] = {
    "an index off by one row": ("search", r"(\[%r\d+\+)256\]", r"\g<1>128]", OtherIdsError),
    "an index off by one word": ("search", r"(\[%r\d+\+)2064\]", r"\g<1>2068]", MisalignedError),
    "a bound off by one": ("merge", r"setp\.lt\.s32", "setp.le.s32", OutOfBoundsError),
    "a loop that ends one chunk too late": ("search", r"setp\.lt\.s64 (\t%p\d+, %rd\d+, %rd2;)", r"setp.le.s64 \1",
                                            OutOfBoundsError),
    "a stride of two floats": ("merge", r"(mad\.wide\.s32 \t%\w+, %\w+), 4,", r"\1, 8,", OutOfBoundsError),
    "a stride of half a row": ("search", r"(shl\.b32 \t%\w+, %\w+), 4;", r"\1, 3;", UninitialisedError),
    "a store that is not masked": ("search", r"@%p\d+ st\.", "st.", OutOfBoundsError),
    "a load that is not masked": ("subtract", r"@%p\d+ ld\.", "ld.", OutOfBoundsError),
    "the last of equal codes": ("search", r"setp\.gt\.f32", "setp.ge.f32", OtherIdsError),
    "the highest code": ("search", r"redux\.sync\.min", "redux.sync.max", OutOfBoundsError),
    "a product that is left out": ("search", r"(?s)(.*)fma\.rn\.f32 (\t%\w+, %\w+), %\w+,(?=.*setp\.gt)",
                                   r"\1fma.rn.f32 \2, 0f00000000,", OtherIdsError),
    "halves that are not turned": ("screen", r"(ldmatrix\S*)\.trans", r"\1", OtherIdsError),
    "a register that is another": ("merge", r"ld\.param\.b64 \t%rd\d+", "ld.param.b64 \t%rd1", UninitialisedError),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_changed_text_is_found(name: str, runs: Runs) -> None:
    function, pattern, new, error = TEXTS[name]
    entry = next(entry for entry, known in runs.functions.items() if known == function)
    text, count = re.subn(pattern, new, runs.modules[entry].decode(), count=1)
    assert count == 1
    with pytest.raises(error):
        runs.with_module(entry, text)


def each(runs: Runs, pattern: str, new: str, but: str = "") -> Iterator[tuple[str, str]]:
    """Every kernel's text, but one function's, with one of the places changed that the pattern fits."""
    found = 0
    for entry, module in runs.modules.items():
        if runs.functions[entry] == but:
            continue
        text = module.decode()
        for place in re.finditer(pattern, text):
            found += 1
            yield entry, text[: place.start()] + new + text[place.end() :]
    assert found, pattern


def test_every_barrier_is_missed(runs: Runs) -> None:
    """Those of the screening in test_screening.py, over more chunks."""
    for entry, text in each(runs, r"bar\.sync\s+0;", "", but="screen"):
        with pytest.raises(RaceError):
            runs.with_module(entry, text)


@pytest.mark.parametrize("new", ["", "cp.async.wait_group \t1;"], ids=["left out", "too early"])
def test_every_wait_for_a_copy_is_missed(new: str, runs: Runs) -> None:
    for entry, text in each(runs, r"cp\.async\.wait_group\s+0;", new, but="screen"):
        with pytest.raises((UninitialisedError, RaceError)):
            runs.with_module(entry, text)


@pytest.mark.parametrize(
    ("exact", "approximate"),
    [
        ("div.rn.f32", "div.full.f32"),
        ("div.rn.f32", "div.approx.f32"),
        ("sqrt.rn.f32", "sqrt.approx.ftz.f32"),
        ("fma.rn.f32", "fma.rn.ftz.f32"),
    ],
)
def test_everything_approximate_is_found(exact: str, approximate: str, runs: Runs) -> None:
    for entry, text in each(runs, re.escape(exact), approximate):
        with pytest.raises(UnknownPtxError, match=re.escape(f"does not know {approximate}")):
            runs.with_module(entry, text)
        if exact == "fma.rn.f32":
            break
