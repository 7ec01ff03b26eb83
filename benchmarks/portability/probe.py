"""What the libraries of this process say that they run on: ``python -m benchmarks.portability.probe [--torch]``.

As a program it ends its output with one line of JSON, after what oneDNN and MKL print of themselves.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from pathlib import Path

from benchmarks.portability.processors import highest_set

# NumPy tells its features nowhere else; type checkers know no private modules.
_numpy = importlib.import_module("numpy._core._multiarray_umath")


def features() -> list[str]:
    """Return NumPy's names of what the processor has, without what NPY_DISABLE_CPU_FEATURES hides."""
    return [name for name, has in _numpy.__cpu_features__.items() if has]


def dispatched() -> list[str]:
    """Return the features that NumPy has loops for, beyond its baseline."""
    return list(_numpy.__cpu_dispatch__)


def seen() -> dict[str, str]:
    """Return library -> what it runs on, for the libraries of every process here."""
    found = features()
    levels = [name for name in (*_numpy.__cpu_baseline__, *dispatched()) if name in found]
    return {"processor": highest_set(found), "NumPy": levels[-1] if levels else "none", "OpenBLAS": _openblas()}


def _openblas() -> str:
    """Return the kernels that NumPy's OpenBLAS chose."""
    for path in {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}:
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_char_p
                return str(function().decode())
    return "not found"


def _exercise_torch() -> str:
    """Return ATen's own answer, after a product by MKL and a convolution by oneDNN, so that both have said theirs."""
    import torch

    torch.randn(64, 64) @ torch.randn(64, 64)
    image = torch.randn(2, 64, 64, 64).to(memory_format=torch.channels_last)
    torch.nn.functional.conv2d(image, torch.randn(64, 64, 3, 3))
    return torch.backends.cpu.get_cpu_capability()


def main() -> None:
    """Print the report."""
    found = seen() | ({"ATen": _exercise_torch()} if "--torch" in sys.argv else {})
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
