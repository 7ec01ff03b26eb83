"""A few instructions as a whole kernel, on two small buffers."""

from __future__ import annotations

import numpy as np

from tests.runtime.backends.ptx.interpreter.arithmetic import Array
from tests.runtime.backends.ptx.interpreter.machine import program
from tests.runtime.backends.ptx.interpreter.memory import GlobalMemory

THREADS = 64
WORDS = 128
"""Of both buffers."""

_TEXT = """
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u64 .ptr .global .align 1 kernel_param_1,
	.param .u32 kernel_param_2
)
.reqntid 64
{
	.reg .pred 	%p<8>;
	.reg .b16 	%rs<8>;
	.reg .b32 	%r<64>;
	.reg .b64 	%rd<32>;
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_1];
	ld.param.b32 	%r2, [kernel_param_2];
	mov.u32 	%r1, %tid.x;
	mov.u32 	%r3, %ctaid.x;
	mad.lo.s32 	%r4, %r3, 64, %r1;
	mad.wide.u32 	%rd3, %r4, 4, %rd1;    // this thread's word of the input
	mad.wide.u32 	%rd4, %r4, 4, %rd2;    // and of the output
	mov.b32 	%r5, global_smem;
	shl.b32 	%r6, %r1, 2;
	add.s32 	%r7, %r5, %r6;             // and of shared memory
	xor.b32 	%r8, %r6, 4;
	add.s32 	%r9, %r5, %r8;             // the neighbour's there
BODY
	ret;
}
"""


def text(body: str) -> str:
    """The kernel: %rd3, %rd4 and %r7 are the addresses of a thread's words of input, output and shared memory.

    %rd1, %rd2 and %r5 are where these begin, %r9 is the neighbour's shared word, %r1 the thread, %r3 the block, %r4 the
    thread over all blocks, %r2 a number.
    """
    return _TEXT.replace("BODY", body)


def run(body: str, *, blocks: int = 1, shared: int = 256, number: int = 0, words: int = WORDS) -> Array:
    """The output, uint32 [words]; the input is 0, 1, 2 and so on. Raises PtxError."""
    memory = GlobalMemory()
    memory.add("the input", np.arange(WORDS, dtype=np.uint32))
    memory.add_scratch("the output", words)
    arguments = [memory.addresses["the input"], memory.addresses["the output"], number]
    program(text(body)).launch((blocks, 1, 1), (THREADS, 1, 1), shared, arguments, memory)
    return memory.fetch("the output", np.uint32, (words,))[0]
