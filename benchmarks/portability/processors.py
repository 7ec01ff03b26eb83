"""The processors that are compared: how each is had on this machine, and what must be seen of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

QEMU = "qemu-x86_64"
SETS = ("SSE4.2", "AVX", "AVX2", "AVX-512")
"""Instruction sets that kernels are written for, each with those before it; AVX2 means FMA too."""

# One variable a library: ATen's own kernels, oneDNN, MKL, OpenBLAS, and NumPy's loops.
SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES",
)


@dataclass(frozen=True)
class Processor:
    """A row of the table. ``library`` is "onnxruntime" or "torch".

    ``switches`` force libraries to another instruction set; ``cpu`` is QEMU's name of a processor. ``highest`` is the
    instruction set that must be seen, ``expected`` what each forced library must report of itself.
    """

    name: str
    library: str
    cpu: str | None = None
    highest: str | None = None
    switches: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_forced(self) -> bool:
        return bool(self.switches)

    def command(self, python: str) -> list[str]:
        """Return the command that runs Python on this processor."""
        return [python] if self.cpu is None else [QEMU, "-cpu", self.cpu, python]

    def environment(self) -> dict[str, str]:
        """Return this process's, with these switches alone: one left over would pick kernels the processor lacks."""
        if self.cpu is None and not self.is_forced:
            return dict(os.environ)
        return {name: value for name, value in os.environ.items() if name not in SWITCHES} | dict(self.switches)


NATIVE = Processor("this machine, onnxruntime", "onnxruntime")
NATIVE_TORCH = Processor("this machine, PyTorch", "torch")
# A kernel family of onnxruntime each. "max" has all that QEMU knows, which is no AVX-512, and says that AMD made it.
EMULATED = (
    Processor("QEMU max", "onnxruntime", cpu="max", highest="AVX2"),
    Processor("QEMU Haswell", "onnxruntime", cpu="Haswell", highest="AVX2"),
    Processor("QEMU SandyBridge", "onnxruntime", cpu="SandyBridge", highest="AVX"),
    Processor("QEMU Nehalem", "onnxruntime", cpu="Nehalem", highest="SSE4.2"),
)


def forced(dispatched: Sequence[str], present: Sequence[str]) -> tuple[Processor, Processor]:
    """Return PyTorch and NumPy held to AVX2, and to the least that they have kernels for.

    ``dispatched`` are the features that NumPy has loops for, ``present`` those of them in this machine: it warns when
    told to leave out one that is not there. MKL takes no notice of MKL_ENABLE_INSTRUCTIONS on AMD, and of MKL_CBWR
    only COMPATIBLE, which is its SSE2.
    """
    above = [name for name in dispatched if name in present and name not in ("X86_V2", "X86_V3")]
    avx2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    avx2 |= {"MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": " ".join(above)}
    minimum = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    both = " ".join([*above, *(name for name in ("X86_V3",) if name in present)])
    minimum |= {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": both}
    return (
        Processor(
            "PyTorch held to AVX2",
            "torch",
            switches=avx2,
            expected={"ATen": "AVX2", "oneDNN": "Intel AVX2", "OpenBLAS": "Haswell", "NumPy": "X86_V3"},
        ),
        Processor(
            "PyTorch held to SSE",
            "torch",
            switches=minimum,
            expected={
                "ATen": "DEFAULT",
                "oneDNN": "Intel SSE4.1",
                "MKL": "COMPATIBLE",
                "OpenBLAS": "Nehalem",
                "NumPy": "X86_V2",
            },
        ),
    )


def highest_set(features: Sequence[str]) -> str:
    """Return the highest of SETS among NumPy's names of a processor's features."""
    needed = {"AVX": ("AVX",), "AVX2": ("AVX2", "FMA3"), "AVX-512": ("AVX512F",)}
    return [name for name in SETS if set(needed.get(name, ())) <= set(features)][-1]


def verbose_report(text: str) -> dict[str, str]:
    """Return what oneDNN and MKL say of themselves under ONEDNN_VERBOSE and MKL_VERBOSE."""
    found = {"oneDNN": r"onednn_verbose.*,cpu,isa:(.*)", "MKL": r"\bCNR:(\S+)"}
    matches = {name: re.search(pattern, text) for name, pattern in found.items()}
    return {name: match[1].strip() for name, match in matches.items() if match}


def not_in_effect(processor: Processor, seen: Mapping[str, str]) -> list[str]:
    """Return a line for everything about ``seen``, library -> what it reports, that is not what was asked for."""
    wanted = dict(processor.expected) | ({"processor": processor.highest} if processor.highest else {})
    return [
        f"{name} runs as {seen.get(name, 'unknown')}, expected {value}"
        for name, value in wanted.items()
        if seen.get(name) != value
    ]
