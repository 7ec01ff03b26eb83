"""What a kernel can do wrong: the errors that the interpreter raises, each naming the instruction and the thread."""

from __future__ import annotations


class PtxError(Exception):
    """What is wrong; `lane` is the first thread it happened to, counted over all blocks, None where it concerns all."""

    def __init__(self, message: str, lane: int | None = None) -> None:
        super().__init__(message)
        self.lane = lane


class UnknownPtxError(PtxError):
    """An instruction, an operand or a directive that the interpreter does not know; approximate ones are not known."""


class OutOfBoundsError(PtxError):
    """An access that is not wholly inside one buffer, or outside of a block's shared memory."""


class MisalignedError(PtxError):
    """An address that is no multiple of the access's size."""


class UninitialisedError(PtxError):
    """A value is used that nobody wrote: a register, a word of memory, or one that an asynchronous copy still owes."""


class RaceError(PtxError):
    """Two threads use one word, at least one writes it, and no barrier lies between."""


class WriteToInputError(PtxError):
    """A kernel writes to a table or to the launch's input."""


class DivergenceError(PtxError):
    """Some threads of a block, or of a warp, reach what all have to reach together."""


class LaunchError(PtxError):
    """A launch that a driver would refuse: arguments, threads, grid or shared memory do not fit the kernel."""
