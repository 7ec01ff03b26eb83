"""The recorded kernels, `kernels.json`, and ONNX Runtime's rule for which of them runs a node.

`python -m tests.cuda_kernels.record` makes the file. Each operator of ONNX that a bundle may hold has rows: the opsets
from which and up to which a kernel counts, the types it takes by the operator's own names for them, and the releases
that have it. A row without an end counts for its first opset alone: once ONNX changes the operator, the kernel counts
no more (https://github.com/microsoft/onnxruntime/issues/26065).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "kernels.json"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True)
class Kernel:
    """A kernel, or several that differ in types alone. `last` is None where no opset ends it."""

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]

    def runs(self, since: int, types: Mapping[str, frozenset[str]]) -> bool:
        """Return whether it runs a node whose operator ONNX changed last in opset `since`, on values of these types."""
        if self.first != since and not (self.last is not None and self.first < since <= self.last):
            return False
        return all(types.get(name, frozenset()) <= taken for name, taken in self.types.items())


@dataclass(frozen=True)
class Release:
    """The kernels of one release: by provider and operator."""

    name: str
    kernels: Mapping[str, Mapping[str, tuple[Kernel, ...]]]

    def has(self, provider: str, operator: str, since: int, types: Mapping[str, frozenset[str]]) -> bool:
        """Return whether the provider has a kernel: see `Kernel.runs`."""
        return any(kernel.runs(since, types) for kernel in self.kernels[provider].get(operator, ()))


def read(file: Path = FILE) -> dict[str, Release]:
    """Return the recorded releases by name, oldest first."""
    data = json.loads(file.read_text(encoding="utf-8"))
    return {name: Release(name, _kernels(data, index)) for index, name in enumerate(data["releases"])}


def _kernels(data: Mapping[str, Any], release: int) -> dict[str, dict[str, tuple[Kernel, ...]]]:
    out: dict[str, dict[str, tuple[Kernel, ...]]] = {}
    for provider, operators in data["kernels"].items():
        found = {
            operator: tuple(
                Kernel(first, last, {name: frozenset(taken.split()) for name, taken in types.items()})
                for first, last, types, releases in rows
                if release in expand(releases)
            )
            for operator, rows in operators.items()
        }
        out[provider] = {operator: kernels for operator, kernels in found.items() if kernels}
    return out


def merged(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return fewer kernels that say the same: those that differ in one name's types become one."""
    rows = list(kernels)
    for name in sorted({name for kernel in rows for name in kernel.types}):
        groups: dict[Any, set[str]] = {}
        for kernel in rows:
            others = frozenset((key, taken) for key, taken in kernel.types.items() if key != name)
            groups.setdefault((kernel.first, kernel.last, others, name in kernel.types), set()).update(
                kernel.types.get(name, ())
            )
        rows = [
            Kernel(first, last, {**dict(others), **({name: frozenset(taken)} if given else {})})
            for (first, last, others, given), taken in groups.items()
        ]
    return rows


def expand(text: str) -> set[int]:
    """Return the numbers of a text such as "0-3 5"."""
    ends = [part.partition("-") for part in text.split()]
    return {number for low, _, high in ends for number in range(int(low), int(high or low) + 1)}


def shorten(numbers: Iterable[int]) -> str:
    """Return the text that `expand` reads."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
