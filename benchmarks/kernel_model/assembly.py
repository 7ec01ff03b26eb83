"""What ptxas makes of a kernel: registers, spills and machine code, by the tools that Triton brings along."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coda_runtime.backends.ptx.kernel_set import WARP

_REGISTERS = 16384
"""A quarter of a multiprocessor's, which is what a quarter of its warps share."""
_UNIT = 256
"""Registers are given to a warp in multiples of this."""
_RESERVED = 1024
"""Bytes of shared memory that each block takes beyond its own."""


@dataclass(frozen=True)
class Gpu:
    """The most a multiprocessor holds: warps, blocks, bytes of shared memory.

    From the CUDA C++ Programming Guide, compute capabilities, technical specifications.
    """

    warps: int
    blocks: int
    shared: int


GPUS = {
    "sm80": Gpu(64, 32, 164 * 1024),
    "sm86": Gpu(48, 16, 100 * 1024),
    "sm89": Gpu(48, 24, 100 * 1024),
    "sm90": Gpu(64, 32, 228 * 1024),
    "sm100": Gpu(64, 32, 228 * 1024),
    "sm120": Gpu(48, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Assembled:
    """A kernel for one GPU. `instructions` are SASS without predicates; `loops` are their loops, the longest first.

    The first `way` of them are what warps run; after these stands what is rare, such as a division of denormals.
    """

    registers: int
    spilled: int
    instructions: tuple[str, ...]
    loops: tuple[range, ...]
    way: int

    @property
    def loop(self) -> range:
        """The longest loop; an empty range where there is none."""
        return self.loops[0] if self.loops else range(0)

    def count(self, pattern: str, places: Sequence[int] | None = None) -> int:
        """Count the instructions that begin with the pattern, among those at `places` where these are given."""
        chosen = range(len(self.instructions)) if places is None else places
        return sum(re.match(pattern, self.instructions[place]) is not None for place in chosen)

    def blocks(self, gpu: str, warps: int, shared: int) -> int:
        """Count the blocks of so many warps and bytes of shared memory that run on a multiprocessor at once."""
        most = GPUS[gpu]
        a_warp = -(-self.registers * WARP // _UNIT) * _UNIT
        by_registers = 4 * (_REGISTERS // a_warp) // warps
        return min(most.blocks, most.warps // warps, by_registers, most.shared // (shared + _RESERVED))


def assemble(module: bytes, gpu: str, folder: Path) -> Assembled:
    """Do what a driver does when it loads PTX on `gpu`, such as "sm90"; files are written to `folder`."""
    tools = importlib.import_module("triton").knobs.nvidia
    assembler = tools.ptxas if gpu in ("sm80", "sm86", "sm89", "sm90") else tools.ptxas_blackwell
    # PTX for one generation alone, such as sm_90a, is assembled for that.
    only = re.search(rb"^\.target sm_\d+a", module, re.MULTILINE) is not None
    (folder / "kernel.ptx").write_bytes(module)
    architecture = f"-arch={gpu.replace('sm', 'sm_')}{'a' if only else ''}"
    told = _run([assembler.path, "-v", architecture, "kernel.ptx", "-o", "kernel.cubin"], folder).stderr
    text = _run([tools.nvdisasm.path, "-c", "kernel.cubin"], folder).stdout
    spills = re.findall(r"(\d+) bytes spill", told)
    return Assembled(int(re.findall(r"Used (\d+) registers", told)[0]), sum(map(int, spills)), *_read(text))


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def _read(text: str) -> tuple[tuple[str, ...], tuple[range, ...], int]:
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in text.splitlines():
        label = re.match(r"(\.L_x_\d+):", line)
        found = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.+?)\s*;", line)
        if label is not None:
            labels[label[1]] = len(instructions)
        elif found is not None:
            instructions.append(found[1])
    way = 1 + max((place for place, it in enumerate(instructions) if it == "EXIT"), default=len(instructions) - 1)
    loops = []
    for place, instruction in enumerate(instructions[:way]):
        back = re.match(r"BRA\S*\s.*`\((\.L_x_\d+)\)", instruction)
        start = labels.get(back[1], place) if back else place
        if start < place:
            loops.append(range(start, place + 1))
    return tuple(instructions), tuple(sorted(loops, key=len, reverse=True)), way


def mix(assembled: Assembled) -> dict[str, int]:
    """Count the loop's instructions by name, the most frequent first: what a failed budget shows."""
    names = (re.split(r"[.\s]", assembled.instructions[place])[0] for place in assembled.loop)
    return dict(Counter(names).most_common())
