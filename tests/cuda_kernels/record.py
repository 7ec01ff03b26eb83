"""Write `kernels.json`: ask releases of onnxruntime-gpu for their kernels.

    python -m tests.cuda_kernels.record 1.24.4 1.27.0 1.31.1

The wheels are PyPI's, and `get_all_opkernel_def` is what ONNX Runtime's own docs/OperatorKernels.md is made of. All
releases are asked again; --folder keeps what was downloaded, 300 MB each, for the next time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from coda_runtime.format.graph_operators import ONNX, OPERATORS
from tests.cuda_kernels.table import CPU, CUDA, FILE, Kernel, merged, shorten
from tests.cuda_kernels.wheel import Wheel, fetch

SOURCE = "get_all_opkernel_def() of PyPI's wheels of onnxruntime-gpu"
_ASK = """
import json
from onnxruntime import get_build_info
from onnxruntime.capi._pybind_state import get_all_opkernel_def
kernels = [(k.provider, k.domain, k.op_name, k.version_range, k.type_constraints) for k in get_all_opkernel_def()]
print(json.dumps([get_build_info(), kernels]))
"""
_NO_END = 2**31 - 1


def ask(wheel: Wheel) -> tuple[str, dict[str, dict[str, list[Kernel]]]]:
    """Return what a release says of its build, and its kernels by provider and operator, those that matter here.

    Of the CPU's these are the operators that ONNX defines by others: a node is taken apart where no provider has it.
    """
    build, kernels = json.loads(wheel.python("-c", _ASK))
    found: dict[str, dict[str, list[Kernel]]] = {CPU: {}, CUDA: {}}
    wanted = {name.decode() for name in OPERATORS[ONNX]}
    composed = {schema.name for schema in onnx.defs.get_all_schemas() if is_composed(schema)}
    for provider, domain, operator, (first, last), types in kernels:
        if domain == "" and operator in (wanted & composed if provider == CPU else wanted) and provider in found:
            given = {name: frozenset(map(_plain, taken)) for name, taken in types.items()}
            kernel = Kernel(first, None if last == _NO_END else last, given)
            found[provider].setdefault(operator, []).append(kernel)
    merged_all = {name: {op: merged(rows) for op, rows in operators.items()} for name, operators in found.items()}
    return build, merged_all


def is_composed(schema: Any) -> bool:
    """Return whether ONNX defines the operator by others."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def _plain(kind: str) -> str:
    """Return "float" for "tensor(float)"; types that are no tensors stay as they are."""
    return kind[len("tensor(") : -1] if kind.startswith("tensor(") else kind


def compact(releases: Mapping[str, Mapping[str, Mapping[str, Sequence[Kernel]]]]) -> dict[str, Any]:
    """Return the kernels as the file has them: each row once, with the releases that have it."""
    out: dict[str, Any] = {}
    for index, providers in enumerate(releases.values()):
        for provider, operators in providers.items():
            for operator, kernels in operators.items():
                rows = out.setdefault(provider, {}).setdefault(operator, {})
                for kernel in kernels:
                    types = tuple(sorted((name, " ".join(sorted(taken))) for name, taken in kernel.types.items()))
                    rows.setdefault((kernel.first, kernel.last or 0, types), []).append(index)
    return {
        provider: {
            operator: [
                [first, last or None, dict(types), shorten(held)] for (first, last, types), held in sorted(rows.items())
            ]
            for operator, rows in sorted(operators.items())
        }
        for provider, operators in sorted(out.items())
    }


def text(data: Mapping[str, Any]) -> str:
    """Return the file: JSON with a line for each row, so that a difference of two versions can be read."""
    lines = [f'{{"source": {json.dumps(data["source"])},', f'"releases": {json.dumps(data["releases"], indent=1)},']
    lines.append('"kernels": {')
    providers = []
    for provider, operators in data["kernels"].items():
        rows = [
            f" {json.dumps(operator)}: [\n  " + ",\n  ".join(map(json.dumps, kernels)) + "]"
            for operator, kernels in operators.items()
        ]
        providers.append(f"{json.dumps(provider)}: {{\n" + ",\n".join(rows) + "}")
    return "\n".join([*lines, ",\n".join(providers), "}}"]) + "\n"


def main() -> None:
    """Ask each release and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        asked = {name: ask(fetch(name, args.folder or Path(temporary))) for name in args.releases}
    data = {
        "source": SOURCE,
        "releases": {name: build for name, (build, _) in asked.items()},
        "kernels": compact({name: kernels for name, (_, kernels) in asked.items()}),
    }
    FILE.write_text(text(data), encoding="utf-8")
    sys.stdout.write(f"{FILE}: {', '.join(asked)}\n")


if __name__ == "__main__":
    main()
