"""The oldest and the newest onnxruntime-gpu themselves, on stubs of CUDA: their kernels, and where they place graphs.

300 MB of downloads each. What loads is the runtime's own backend, with device="cuda", up to the first run.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import stub_libraries
from tests.cuda_kernels import record, table
from tests.cuda_kernels.placement import without_kernel
from tests.cuda_kernels.wheel import Wheel, fetch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the wheels are for Linux"),
    pytest.mark.skipif(stub_libraries.lacks() is not None, reason=str(stub_libraries.lacks())),
]

RELEASES = table.read()
_LOAD = """
import json, sys
from pathlib import Path
from coda_runtime import CodaError
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from coda_runtime.format.bundle import Bundle
bundle, told = Bundle.open(Path(sys.argv[1])), {}
for artifact in bundle.manifest.artifacts:
    if artifact.format == "onnx":
        try:
            session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cuda"))
            told[artifact.file] = session.device, session.nodes()
        except CodaError as error:
            told[artifact.file] = type(error).__name__, str(error)
print(json.dumps(told))
"""


_LOAD_FILE = """
import json, sys
from pathlib import Path
from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tests.runtime import tiny
folder, name = Path(sys.argv[1]), sys.argv[2]
artifact = tiny.describe(folder, name)
session = OnnxRuntimeBackend().load(tiny.alone(folder, artifact), artifact, LoadOptions("cuda"))
print(json.dumps([session.device, session.nodes()]))
"""


@pytest.fixture(scope="module", params=[next(iter(RELEASES)), [*RELEASES][-1]])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return fetch(request.param, tmp_path_factory.mktemp("onnxruntime-gpu"))


def load(wheel: Wheel, folder: Path) -> dict[str, Any]:
    """By file of a bundle its device and the nodes that each provider got, or the error."""
    told: dict[str, Any] = json.loads(wheel.python("-c", _LOAD, str(folder)))
    return told


def test_the_table_is_what_the_release_says(wheel: Wheel) -> None:
    build, kernels = record.ask(wheel)
    assert json.loads(table.FILE.read_text(encoding="utf-8"))["releases"][wheel.release] == build
    assert record.compact({"": kernels}) == record.compact({"": RELEASES[wheel.release].kernels})


@pytest.mark.parametrize("bundle", ["of today", "of 0.1"])
def test_what_has_a_kernel_runs_on_the_gpu_and_nothing_else_loads(wheel: Wheel, bundle: str, tiny_bundle: Path) -> None:
    """The table and the release agree on every graph, those of a Scan inside."""
    old = Path(__file__).parents[1] / "compatibility/data/0.1/bundle"
    folder = tiny_bundle if bundle == "of today" else old
    told = load(wheel, folder)
    assert len(told) == 7
    for file, (what, more) in told.items():
        missing = {node.partition("(")[0] for node in without_kernel(onnx.load(folder / file), RELEASES[wheel.release])}
        if missing:
            assert what == "DeviceError", file
            assert f"CUDAExecutionProvider leaves {', '.join(sorted(missing))} of {folder / file} to the CPU" in more
        else:
            assert what == "cuda:0", f"{file}: {more}"
            assert more[table.CUDA] > 100


def test_int8_has_its_biases_on_the_gpu(wheel: Wheel, tiny_bundle: Path, tmp_path: Path) -> None:
    """Left to itself onnxruntime makes int32 of them, with a DequantizeLinear each that has no CUDA kernel."""
    from coda_export.int8 import quantized_graph
    from tests.tiny_tokenizers import images

    model = quantized_graph(onnx.load(tiny_bundle / "encoder.fp32.onnx"), images(4).numpy())
    onnx.save(model, tmp_path / "encoder.int8.onnx")
    device, nodes = json.loads(wheel.python("-c", _LOAD_FILE, str(tmp_path), "encoder.int8.onnx"))
    assert device == "cuda:0"
    assert nodes[table.CUDA] > 100


def test_doctor_says_what_the_provider_lacks(wheel: Wheel) -> None:
    code = "from coda_runtime.backends.onnxruntime import starting; print(starting.why_not('CUDAExecutionProvider'))"
    assert wheel.python("-c", code) == "None\n", "it starts on stubs"
    without = dataclasses.replace(wheel, stubs=wheel.site)
    assert re.search(r"lib(cu|nv)\w+\.so\.\d+: cannot open shared object file", without.python("-c", code))
