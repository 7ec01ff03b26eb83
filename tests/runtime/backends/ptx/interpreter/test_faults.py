"""Every way in which a kernel can go wrong is found, and named; next to each stands the same thing done well."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.backends.ptx.interpreter import machine
from tests.runtime.backends.ptx.interpreter.faults import (
    DivergenceError,
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    PtxError,
    RaceError,
    UninitialisedError,
    UnknownPtxError,
    WriteToInputError,
)
from tests.runtime.backends.ptx.interpreter.memory import GlobalMemory
from tests.runtime.backends.ptx.interpreter.snippets import THREADS, WORDS, run, text

STORE, LOAD = "st.shared.b32 [%r7], %r1;", "ld.shared.b32 %r20, [%r9]; st.global.b32 [%rd4], %r20;"
COPY = """
    shl.b32 %r10, %r1, 4; and.b32 %r10, %r10, 255; add.s32 %r11, %r5, %r10; mad.wide.u32 %rd5, %r10, 1, %rd1;
    setp.lt.u32 %p1, %r1, 16;
    @%p1 cp.async.cg.shared.global [%r11 + 0], [%rd5 + 0], 0x10, 16;
    cp.async.commit_group;
"""
WAIT, BARRIER = "cp.async.wait_group 0;", "bar.sync 0;"
APART = "setp.lt.u32 %p1, %r1, 10; @%p1 bra $L1; add.s32 %r20, %r1, 1; $L1: "

FAULTS: dict[str, tuple[str, type[PtxError], str]] = {
    "a load past the end": (
        "ld.global.b32 %r20, [%rd3+452];", OutOfBoundsError,
        r"^kernel: `ld.global.b32 %r20, \[%rd3\+452\]`: thread 15 of block \(0, 0\) reads 4 bytes at byte 512 of the "
        "input, which has 512$",
    ),
    "a load before the start": ("ld.global.b32 %r20, [%rd3+-4];", OutOfBoundsError, "thread 0 .* byte -4 of the input"),
    "a vector half past the end": ("ld.global.v2.b32 {%r20, %r21}, [%rd1+508];", OutOfBoundsError, "byte 508"),
    "an index that reaches another buffer": (
        "mad.wide.s32 %rd5, 2147483647, 4, %rd1; ld.global.b32 %r20, [%rd5];", OutOfBoundsError, "of the input",
    ),
    "a store past the end": ("st.global.b32 [%rd4+512], %r1;", OutOfBoundsError, "thread 0 .* of the output"),
    "a null pointer": ("mov.b64 %rd5, 0; ld.global.b32 %r20, [%rd5];", OutOfBoundsError, "0x0, where nothing is"),
    "shared memory that the launch does not give": ("st.shared.b32 [%r7+4], %r1;", OutOfBoundsError, "63 .* has 256"),
    "a shared vector half past the end": (
        "setp.eq.u32 %p1, %r1, 63; @%p1 ld.shared.v2.b32 {%r20, %r21}, [%r7];", OutOfBoundsError, "8 bytes at byte 252",
    ),
    "shared memory before the start": ("st.shared.b32 [%r7+-4], %r1;", OutOfBoundsError, "byte -4 of shared memory"),
    "a vector at an odd word": ("ld.global.v2.b32 {%r20, %r21}, [%rd3];", MisalignedError, "1 .* 8 bytes at byte 4"),
    "a shared vector at an odd word": ("st.shared.v2.b32 [%r5+4], {%r1, %r1};", MisalignedError, "thread 0 "),
    "a word at an odd byte": ("ld.global.b32 %r20, [%rd3+2];", MisalignedError, "thread 0 .* 4 bytes at byte 2"),
    "a store to an input": ("st.global.b32 [%rd3], %r1;", WriteToInputError, "writes to the input"),
    "memory that nobody wrote": ("ld.global.b32 %r20, [%rd4];", UninitialisedError, "wrote: byte 0 of the output"),
    "shared memory that nobody wrote": ("ld.shared.b32 %r20, [%r7];", UninitialisedError, "byte 0 of shared memory"),
    "a register that nobody wrote": ("add.s32 %r20, %r21, 1;", UninitialisedError, "%r21 is used before"),
    "a register that some threads wrote": (
        "setp.lt.u32 %p1, %r1, 10; @%p1 mov.u32 %r20, 1; add.s32 %r20, %r20, 1;", UninitialisedError, "%r20 is used",
    ),
    "a half that nobody wrote": (
        "mov.b64 %rd5, {%r20, %r1}; mov.b64 {%r21, %r22}, %rd5; add.s32 %r23, %r22, 1; add.s32 %r23, %r21, 1;",
        UninitialisedError, "add.s32 %r23, %r21, 1`: %r21 is used before",
    ),
    "both halves, of which nobody wrote one": (
        "mov.b64 %rd5, {%r20, %r1}; add.s64 %rd6, %rd5, 1;", UninitialisedError, "%rd5 is used before",
    ),
    "a byte that nobody wrote": ("prmt.b32 %r20, %r1, %r21, 0x4000;", UninitialisedError, "%r21 is used before"),
    "bytes of a register's choice": ("prmt.b32 %r20, %r1, %r21, %r1;", UninitialisedError, "%r21 is used before"),
    "a load of what another thread stored": (STORE + LOAD, RaceError, "thread 0 .* reads what another thread wrote"),
    "a store where another thread loaded": (
        STORE + BARRIER + LOAD + STORE, RaceError, "thread 0 .* writes what another thread reads",
    ),
    "stores of two threads at once": ("st.shared.b32 [%r5], %r1;", RaceError, "another thread writes at once"),
    "stores of two threads": (
        STORE + "add.s32 %r20, %r1, 7; st.shared.b32 [%r9], %r20;", RaceError, "writes what another thread wrote",
    ),
    "a copy that nobody waits for": (COPY + BARRIER + LOAD, UninitialisedError, "reads what a copy still owes"),
    "a copy that is waited for too early": (
        COPY + "cp.async.wait_group 1;" + BARRIER + LOAD, UninitialisedError, "reads what a copy still owes",
    ),
    "a copy with no barrier after it": (COPY + WAIT + LOAD, RaceError, "reads what another thread wrote"),
    "a copy to where another thread loads": (STORE + BARRIER + LOAD + COPY, RaceError, "what another thread reads"),
    "a store to where a copy is under way": (COPY + BARRIER + STORE, RaceError, "a copy is under way"),
    "a barrier for some threads": (APART.replace("$L1:", BARRIER + "$L1:"), DivergenceError, "come to a barrier"),
    "a shuffle of some threads": (
        APART.replace("$L1:", "shfl.sync.bfly.b32 %r21, %r1, 1, 31, -1; $L1:"), DivergenceError, "of a warp shuffle",
    ),
    "a reduction of some threads": (
        APART.replace("$L1:", "redux.sync.min.s32 %r21, %r1, -1; $L1:"), DivergenceError, "of a warp reduce",
    ),
    "a matrix of some threads": (
        APART.replace("$L1:", "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r21}, [%r5]; $L1:"), DivergenceError,
        "some threads of a warp move a matrix",
    ),
    "a matrix that some threads store": (
        APART.replace("$L1:", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {%r1}; $L1:"), DivergenceError,
        "some threads of a warp move a matrix",
    ),
    "a product of some threads": (
        "mov.b32 %r21, 0; " + APART.replace(
            "$L1:", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r22, %r23, %r24, %r25}, "
            "{%r21, %r21, %r21, %r21}, {%r21, %r21}, {%r21, %r21, %r21, %r21}; $L1:"
        ),
        DivergenceError, "some threads of a warp multiply",
    ),
}  # fmt: skip
WELL = {
    "the last word": "ld.global.b32 %r20, [%rd1+508];",
    "a vector": "shl.b32 %r10, %r6, 1; mad.wide.u32 %rd5, %r10, 1, %rd1; ld.global.v2.b32 {%r20, %r21}, [%rd5];",
    "a copy": COPY + WAIT + BARRIER + LOAD,
    "a barrier": STORE + BARRIER + LOAD + BARRIER + STORE,
    "a half that is not used": "mov.b64 %rd5, {%r20, %r1}; mov.b64 {_, %r21}, %rd5; mov.b64 {%r22, %r21}, %rd5;",
    "a word of one's own": STORE + "ld.shared.b32 %r20, [%r7];",
    "a copy that is not the last": COPY + "cp.async.commit_group; cp.async.wait_group 1;" + BARRIER + LOAD,
    "stores of equal values": "st.shared.b32 [%r5], %r2; bar.sync 0; ld.shared.b32 %r20, [%r5];",
    "threads that meet before the barrier": APART + BARRIER,
    "a register that has a value where it is used": (
        "setp.lt.u32 %p1, %r1, 10; @%p1 mov.u32 %r20, 1; @%p1 add.s32 %r20, %r20, 1;"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_found(name: str) -> None:
    body, error, message = FAULTS[name]
    with pytest.raises(error, match=message):
        run(body)


@pytest.mark.parametrize("name", WELL)
def test_not_found_where_there_is_none(name: str) -> None:
    run(WELL[name])


@pytest.mark.parametrize("lanes", [THREADS, machine.LANES], ids=["block by block", "all blocks at once"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "st.global.b32 [%rd4], %r1; bar.sync 0; @%p1 ld.global.b32 %r20, [%rd2];",
            r"thread 0 of block \(1, 0\) reads what another thread wrote",
        ),
        (
            "mad.wide.u32 %rd5, %r1, 4, %rd2; st.global.b32 [%rd5], %r4;",
            "writes what another thread (writes|wrote)",
        ),
        (
            "st.global.b32 [%rd4], %r1; ld.global.b32 %r20, [%rd4]; bar.sync 0; @%p1 st.global.b32 [%rd2], %r2;",
            "thread 0 .* writes what another thread reads",
        ),
    ],
    ids=["a load", "stores", "a store"],
)
def test_no_barrier_keeps_blocks_apart(body: str, message: str, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LANES", lanes)
    with pytest.raises(RaceError, match=message):
        run("setp.eq.u32 %p1, %r3, 1;" + body, blocks=2)
    run("setp.eq.u32 %p1, %r3, 1;" + body.replace("@%p1", "@!%p1"), blocks=1 if "%p1" not in body else 2)


def test_a_barrier_that_one_block_comes_to() -> None:
    body = STORE + "setp.eq.u32 %p1, %r3, 1; @%p1 bra $L1; bar.sync 0; $L1: "
    with pytest.raises(RaceError, match=r"thread 0 of block \(1, 0\) reads what another thread wrote"):
        run(body + LOAD, blocks=2)
    run(body + BARRIER + LOAD + BARRIER + STORE, blocks=2)


def test_copies_of_blocks_that_part() -> None:
    """A block waits for its own groups: here one has a group more open than the other."""
    body = COPY + "setp.eq.u32 %p2, %r3, 1; @%p2 bra $L1; cp.async.commit_group; $L1: "
    run(body + WAIT + BARRIER + LOAD, blocks=2)
    with pytest.raises(UninitialisedError, match=r"thread 0 of block \(1, 0\) reads what a copy still owes"):
        run(body + "cp.async.wait_group 1;" + BARRIER + LOAD, blocks=2)
    run(body + "@%p2 bra $L2; cp.async.wait_group 1; $L2: @!%p2 bra $L3;" + WAIT + "$L3:" + BARRIER + LOAD, blocks=2)


def test_a_launch_ends_what_was_under_way() -> None:
    """The next launch may read what any thread of this one wrote, and write what it read."""
    memory = GlobalMemory()
    memory.add("the input", np.arange(WORDS, dtype=np.uint32))
    memory.add_scratch("the output", WORDS)
    kernel = machine.program(text("st.global.b32 [%rd4], %r2;"))
    turned = machine.program(
        text("xor.b32 %r20, %r4, 1; mad.wide.u32 %rd5, %r20, 4, %rd2; ld.global.b32 %r21, [%rd5]; bar.sync 0;")
    )
    for number in (1, 2):
        arguments = [memory.addresses["the input"], memory.addresses["the output"], number]
        for one in (kernel, turned):
            one.launch((2, 1, 1), (THREADS, 1, 1), 256, arguments, memory)
    values, written = memory.fetch("the output", np.uint32, (WORDS,))
    assert written.all()
    assert (values == 2).all()


UNKNOWN = {
    "div.full.f32 %r20, %r1, %r2;": "does not know div.full.f32",
    "div.approx.f32 %r20, %r1, %r2;": "does not know div.approx.f32",
    "sqrt.approx.ftz.f32 %r20, %r1;": "does not know sqrt.approx.ftz.f32",
    "ex2.approx.f32 %r20, %r1;": "does not know ex2.approx.f32",
    "rcp.approx.f32 %r20, %r1;": "does not know rcp.approx.f32",
    "fma.rn.ftz.f32 %r20, %r1, %r1, %r1;": "does not know fma.rn.ftz.f32",
    "fma.rz.f32 %r20, %r1, %r1, %r1;": "does not know fma.rz.f32",
    "mma.sync.aligned.m16n8k8 %r20, %r1;": "does not know mma",
    "add.s32 %r20, %r1;": "does not know add.s32 of 2",
    "add.s32 %rd5, %r1, %r1;": "%rd5 in place of a s32",
    "add.s32 %r20, %tid.y, %r1;": "the register %tid.y is not declared",
    "add.s32 %r99, %r1, %r1;": "the register %r99 is not declared",
    "add.s32 %r20, elsewhere, %r1;": "the operand elsewhere",
    "bar.sync 1;": "a barrier other than 0",
    "bra $L9;": r"the label \$L9",
    "shfl.sync.bfly.b32 %r20, %r1, 1, 15, -1;": "other than whole warps",
    "cp.async.cg.shared.global [%r7], [%rd3], 8;": "other than 16 bytes",
    "ld.param.b32 %r20, [kernel_param_0];": "the parameter",
    "ld.shared.b32 %r20, [%r7*4];": r"the address \[%r7\*4\]",
    "ld.shared.v2.b32 {%r20}, [%r7];": "1 elements",
}


@pytest.mark.parametrize("body", UNKNOWN)
def test_what_is_not_known_is_an_error_by_name(body: str) -> None:
    """Approximate arithmetic too: the kernels promise float32."""
    with pytest.raises(UnknownPtxError, match=UNKNOWN[body]):
        machine.program(text(body))


def test_other_texts_are_errors() -> None:
    for change in ((".reqntid 64", ""), (".u32 kernel", ".b8 kernel"), (".address_size 64", ".address_size 32")):
        with pytest.raises(UnknownPtxError):
            machine.program(text("").replace(*change))


def test_launches_that_do_not_fit() -> None:
    kernel, memory = machine.program(text("")), GlobalMemory()
    for grid, block, shared, arguments, message in (
        ((1, 1, 1), (32, 1, 1), 0, [0, 0, 0], "for 64 threads a block"),
        ((0, 1, 1), (64, 1, 1), 0, [0, 0, 0], "over a grid of"),
        ((1, 70000, 1), (64, 1, 1), 0, [0, 0, 0], "over a grid of"),
        ((1, 1, 1), (64, 1, 1), 65536, [0, 0, 0], "wants 65,536 bytes"),
        ((1, 1, 1), (64, 1, 1), 0, [0, 0], "has 3 parameters, and gets 2"),
    ):
        with pytest.raises(LaunchError, match=message):
            kernel.launch(grid, block, shared, arguments, memory)
