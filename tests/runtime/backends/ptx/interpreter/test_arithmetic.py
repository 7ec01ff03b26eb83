"""Instructions against Python's own integers, and control flow against loops in Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.backends.ptx.interpreter.arithmetic import TYPES, operation
from tests.runtime.backends.ptx.interpreter.snippets import THREADS, run


def signed(bits: int, width: int = 32) -> int:
    bits &= (1 << width) - 1
    return bits - (1 << width) if bits >> width - 1 else bits


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else -1


def field(a: int, start: int, length: int, sign: bool) -> int:
    last = min(start + length - 1, 31)
    fill = a >> last & 1 if sign and length else 0
    return sum((a >> start + i & 1 if i < length and start + i < 32 else fill) << i for i in range(32))


def permuted(low: int, high: int, selector: int) -> int:
    eight = (high << 32 | low).to_bytes(8, "little")
    four = []
    for digit in f"{selector & 0xFFFF:04x}"[::-1]:
        byte = eight[int(digit, 16) & 7]
        four.append(byte if int(digit, 16) < 8 else 0xFF * (byte >> 7))
    return int.from_bytes(bytes(four), "little")


# Of every opcode: what it makes of numbers that have its sources' types.
INTEGERS: dict[str, Callable[..., int]] = {
    "add.s32": lambda a, b: a + b,
    "sub.s16": lambda a, b: a - b,
    "add.s64": lambda a, b: a + b,
    "mul.lo.s32": lambda a, b: a * b,
    "mul.hi.s32": lambda a, b: a * b >> 32,
    "mul.hi.u32": lambda a, b: a * b >> 32,
    "mul.hi.s16": lambda a, b: a * b >> 16,
    "mul.wide.s32": lambda a, b: a * b,
    "mul.wide.u32": lambda a, b: a * b,
    "mad.lo.s32": lambda a, b, c: a * b + c,
    "mad.wide.s32": lambda a, b, c: a * b + c,
    "mad.wide.u32": lambda a, b, c: a * b + c,
    "div.s32": quotient,
    "div.u32": lambda a, b: a // b if b else -1,
    "rem.s32": lambda a, b: a - quotient(a, b) * b,
    "neg.s32": lambda a: -a,
    "min.s32": min,
    "max.u32": max,
    "and.b32": lambda a, b: a & b,
    "or.b64": lambda a, b: a | b,
    "xor.b16": lambda a, b: a ^ b,
    "not.b32": lambda a: ~a,
    "shl.b32": lambda a, by: a << by if by < 32 else 0,
    "shl.b64": lambda a, by: a << by if by < 64 else 0,
    "shr.u32": lambda a, by: a >> by,
    "shr.s32": lambda a, by: a >> by,
    "shr.s16": lambda a, by: a >> by,
    "bfe.u32": lambda a, start, length: field(a, start, length, False),
    "bfe.s32": lambda a, start, length: field(a, start, length, True),
    "prmt.b32": permuted,
    "setp.lt.s32": lambda a, b: a < b,
    "setp.lt.u32": lambda a, b: a < b,
    "setp.ge.s64": lambda a, b: a >= b,
    "setp.ne.s32": lambda a, b: a != b,
}


@pytest.mark.parametrize("opcode", INTEGERS)
@given(data=st.data())
def test_integers(opcode: str, data: st.DataObject) -> None:
    done = operation(opcode)
    numbers = []
    for place, kind in enumerate(done.sources):
        info = np.iinfo(TYPES[kind][1])
        edge = st.sampled_from([info.min, info.max, 0, 1]) | st.integers(-9 if info.min else 0, 70)
        amount = place and opcode.startswith(("sh", "bfe"))
        numbers.append(data.draw(st.integers(0, 70) if amount else edge | st.integers(info.min, info.max)))
    arrays = [np.array([number], TYPES[kind][1]) for number, kind in zip(numbers, done.sources, strict=True)]
    with np.errstate(all="ignore"):
        found = done.function(*arrays)
    dtype = np.dtype(TYPES[done.result][1])
    expected = INTEGERS[opcode](*numbers)
    if done.result != "pred":
        expected = expected & (1 << 8 * dtype.itemsize) - 1
        expected = signed(expected, 8 * dtype.itemsize) if dtype.kind == "i" else expected
    assert (found.dtype, found.tolist()) == (dtype, [expected])


def floats(opcode: str, *values: float) -> float:
    with np.errstate(all="ignore"):
        return float(operation(opcode).function(*(np.array([value], np.float32) for value in values))[0])


def test_floats() -> None:
    one = 1 + 2**-12
    assert floats("fma.rn.f32", one, one, -1 - 2**-11) == 2**-24, "one rounding"
    assert floats("mul.f32", one, one) == 1 + 2**-11
    assert floats("div.rn.f32", 1, 3) == np.float32(1) / np.float32(3)
    assert floats("sqrt.rn.f32", 2) == np.sqrt(np.float32(2))
    assert floats("mul.f32", 2**-100, 2**-40) == 2**-140, "denormals are kept"
    assert floats("max.f32", np.nan, 1) == floats("max.f32", 1, np.nan) == 1
    assert np.isnan(floats("max.NaN.f32", np.nan, 1))
    for name, of_nan in (("gt", False), ("eq", False), ("ne", False), ("neu", True)):
        assert bool(floats(f"setp.{name}.f32", np.nan, 1)) == of_nan
    pair = operation("fma.rn.f32x2").function(*(np.array([[2, 3]], np.float32),) * 3)
    assert pair.tolist() == [[6, 12]]


# The first warp goes elsewhere; %r21 is the address of a lane's row of a matrix.
ONE_WARP = (
    "mov.b32 %r20, 7; shl.b32 %r21, %r1, 4; and.b32 %r21, %r21, 112; add.s32 %r21, %r21, %r5; "
    "setp.lt.u32 %p1, %r1, 32; @%p1 bra $L1; "
)
# The instructions, and what thread t stores after them.
PROGRAMS: dict[str, tuple[str, Callable[[int], int]]] = {
    "halves": (
        "mov.b64 %rd5, {%r1, %r2}; mov.b64 {%r20, %r21}, %rd5; shl.b32 %r21, %r21, 8; or.b32 %r20, %r20, %r21;",
        lambda t: 5 << 8 | t,
    ),
    "quarters": (
        "cvt.u16.u32 %rs1, %r1; mov.b32 %r21, {%rs1, %rs1}; mov.b32 {%rs2, %rs3}, %r21; cvt.u32.u16 %r20, %rs3;",
        lambda t: t,
    ),
    "eight bits": ("sub.s32 %r21, %r1, 130; cvt.s8.s32 %rs1, %r21; cvt.s32.s8 %r20, %rs1;",
                   lambda t: signed(t - 130, 8) & 0xFFFFFFFF),
    "a choice": ("setp.lt.s32 %p1, %r1, 9; selp.b32 %r20, %r2, %r1, %p1;", lambda t: 5 if t < 9 else t),
    "bytes of two registers": ("prmt.b32 %r20, %r1, 0x5060708U, 0x7140U;", lambda t: 5 << 24 | 8 << 8 | t),
    "bytes of one register, the other has no value": (
        "prmt.b32 %r21, %r1, %r22, 0x2100U; prmt.b32 %r20, %r22, %r21, 0x7654U;", lambda t: t << 8 | t,
    ),
    "a shuffle": ("shfl.sync.bfly.b32 %r20, %r1, 8, 31, -1;", lambda t: t ^ 8),
    "a shuffle by index": ("sub.s32 %r21, 31, %r1; shfl.sync.idx.b32 %r20, %r1, %r21, 31, -1;",
                           lambda t: t // 32 * 32 + (31 - t) % 32),
    "a reduction": ("mov.b32 %r21, -1; redux.sync.max.s32 %r20, %r1, %r21;", lambda t: t // 32 * 32 + 31),
    "a loop": (
        "mov.b32 %r20, 0; $L1: add.s32 %r20, %r20, 3; add.s32 %r21, %r20, 0; setp.lt.s32 %p1, %r20, 30; @%p1 bra $L1;",
        lambda t: 30,
    ),
    "a loop that is as long as the thread says": (
        "mov.b32 %r20, 0; mov.b32 %r21, 0; $L1: add.s32 %r20, %r20, %r21; add.s32 %r21, %r21, 1; "
        "setp.le.s32 %p1, %r21, %r1; @%p1 bra $L1;",
        lambda t: t * (t + 1) // 2,
    ),
    "either way": (
        "and.b32 %r21, %r1, 1; setp.eq.s32 %p1, %r21, 0; @%p1 bra $L1; mov.b32 %r20, 100; bra $L2; "
        "$L1: mov.b32 %r20, 200; $L2: add.s32 %r20, %r20, %r1;",
        lambda t: (100 if t % 2 else 200) + t,
    ),
    "a predicate turned": ("mov.b32 %r20, 1; setp.lt.s32 %p1, %r1, 9; @!%p1 mov.b32 %r20, 2;", lambda t: 1 + (t >= 9)),
    "a copy of nothing": (
        "shl.b32 %r21, %r1, 2; add.s32 %r21, %r21, %r21; add.s32 %r21, %r21, %r21; add.s32 %r21, %r5, %r21; "
        "mov.b64 %rd5, 0; cp.async.cg.shared.global [ %r21 + 0 ], [ %rd5 + 0 ], 0x10, 0; cp.async.commit_group; "
        "cp.async.wait_group 0; bar.sync 0; ld.shared.b32 %r20, [%r7];",
        lambda t: 0,
    ),
    "a matrix stored and loaded": (
        "shl.b32 %r21, %r1, 4; and.b32 %r21, %r21, 112; and.b32 %r22, %r1, 32; shl.b32 %r22, %r22, 2; "
        "add.s32 %r21, %r21, %r22; add.s32 %r21, %r21, %r5; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r21], {%r1}; "
        "bar.sync 0; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r22}, [%r21]; ld.shared.b32 %r23, [%r7]; "
        "and.b32 %r20, %r22, %r23;",
        lambda t: t,
    ),
    "matrices of one warp": (
        ONE_WARP + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r21], {%r1}; $L1: bar.sync 0; "
        "@%p1 bra $L2; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r21]; $L2: ",
        lambda t: 7 if t < 32 else t,
    ),
    "matrices of one warp, turned": (
        ONE_WARP + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r21], {%r1}; $L1: bar.sync 0; "
        "@%p1 bra $L2; ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r20}, [%r21]; $L2: ",
        # Every other half is 0: what thread 4 i + j stored is in row i, column 2 j.
        lambda t: 7 if t < 32 else 0 if t & 4 else (32 + t % 4 * 8 + t % 32 // 8) * 0x10001 + 0x40000,
    ),
    "a product of one warp": (
        ONE_WARP + "mov.b32 %r22, 0x3C003C00; mov.b32 %r23, 0; "
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r24, %r25, %r26, %r27}, {%r22, %r22, %r22, %r22}, "
        "{%r22, %r22}, {%r23, %r23, %r23, %r23}; setp.gt.f32 %p2, %r27, 0f417FF000; selp.b32 %r20, 16, 0, %p2; $L1: ",
        lambda t: 7 if t < 32 else 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    body, expected = PROGRAMS[name]
    found = run(body + "st.global.b32 [%rd4], %r20;", number=5, shared=1024)
    assert found[:THREADS].tolist() == [expected(thread) for thread in range(THREADS)]
