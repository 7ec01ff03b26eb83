"""The layer on a stand-in for the driver, its types against cuda-core's stubs, and on a GPU all of it."""

from __future__ import annotations

import gc
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_runtime.backends import cuda
from coda_runtime.backends.cuda import opening
from coda_runtime.backends.cuda.failures import failures
from coda_runtime.errors import BackendError, DeviceError, DeviceMemoryError, InputError, MissingDependencyError
from coda_runtime.machine.devices import Gpu, count_cuda_devices

core = pytest.importorskip("cuda.core")
ROOT = Path(__file__).parents[4]
FOLDER = Path(core.__file__ or "").parent.parent  # importing it turns cuda/core into cuda/core/cu12 or cu13


class TestOpening:
    @pytest.mark.skipif(count_cuda_devices() > 0, reason="there is a GPU")
    @pytest.mark.parametrize("call", [cuda.open_device, cuda.compute_capability, cuda.gpu_name])
    def test_no_gpu(self, call: Any) -> None:
        with pytest.raises(DeviceError, match=r"shows none here .*to run on the CPU pass device=.cpu.$"):
            call(0)

    def test_a_gpu_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "count_cuda_devices", lambda: 2)
        with pytest.raises(DeviceError, match=r'"cuda:2", and the NVIDIA driver shows 2 GPUs here'):
            cuda.open_device(2)

    def test_what_the_gpu_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "count_cuda_devices", lambda: 1)
        monkeypatch.setattr(opening, "find_gpu", lambda index: Gpu("NVIDIA L4", "sm89", "13.0"))
        assert (cuda.compute_capability(0), cuda.gpu_name(0)) == ("sm89", "NVIDIA L4")
        monkeypatch.setattr(opening, "find_gpu", lambda index: Gpu("NVIDIA L4", "sm89", "11.8"))
        with pytest.raises(DeviceError, match="update the driver"):
            cuda.compute_capability(0)

    def test_cuda_core_does_not_import(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "_find", lambda index: Gpu("NVIDIA L4", "sm89", "13.0"))
        monkeypatch.setitem(sys.modules, "coda_runtime.backends.cuda.device", None)
        with pytest.raises(BackendError, match=r"does not import .*force-reinstall .cuda-core>="):
            cuda.open_device(97)

    def test_a_driver_that_is_too_old(self) -> None:
        opening.check_driver("13.0", "13.5.0")
        opening.check_driver("13.1", "12.9.4")
        with pytest.raises(DeviceError, match=r'for CUDA 12\.4, and cuda-bindings 13\.5\.0 .*"cuda-bindings==12\.\*"'):
            opening.check_driver("12.4", "13.5.0")

    def test_cuda_core_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cuda.missing("tensorrt") is None

        def find(name: str) -> None:
            raise ModuleNotFoundError(name)

        for finder in (find, lambda name: None):
            monkeypatch.setattr(importlib.util, "find_spec", finder)
            found = cuda.missing("tensorrt")
            assert isinstance(found, MissingDependencyError)
            assert found.extra == "tensorrt"


class TestFailures:
    def test_memory(self) -> None:
        text = r"ran out while allocating 8 bytes \(CUDA_ERROR_OUT_OF_MEMORY"
        with pytest.raises(DeviceMemoryError, match=text), failures("allocating 8 bytes"):
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed\nbecause")

    def test_others(self) -> None:
        text = r"failed while copying \(CUDA_ERROR_ILLEGAL_ADDRESS\)"
        with pytest.raises(BackendError, match=text) as raised, failures("copying"):
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
        assert not isinstance(raised.value, DeviceMemoryError)

    def test_ours_pass(self) -> None:
        with pytest.raises(InputError, match="as it was"), failures("copying"):
            raise InputError("as it was")


def test_the_owner_lets_go_with_the_last_array() -> None:
    """cuda.core's capsule keeps the memory for as long as somebody has an array of it."""
    from cuda.core import Buffer
    from cuda.core.utils import StridedMemoryView

    from coda_runtime.backends.cuda.memory import Owner

    class OnTheHost(Owner):
        is_device_accessible = property(lambda self: False)
        is_host_accessible = property(lambda self: True)

    class Memory:
        values = np.arange(6, dtype=np.int32)

    memory = Memory()
    owner = OnTheHost(memory, 0)  # type: ignore[arg-type]
    buffer = Buffer.from_handle(memory.values.ctypes.data, memory.values.nbytes, mr=owner)
    array = np.from_dlpack(StridedMemoryView.from_buffer(buffer, (2, 3), dtype=np.dtype(np.int32)))
    del buffer
    gc.collect()
    assert owner._memory is memory  # type: ignore[comparison-overlap]
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    del array
    gc.collect()
    assert owner._memory is None
    assert Owner(memory, 3).device_id == 3  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cuda-core's stubs where mypy finds them: the package chooses its folder when it is imported."""
    found = FOLDER
    folder = tmp_path_factory.mktemp("stubs") / "cuda" / "core"
    for file in (found / "cu13").rglob("*.py*"):
        if file.suffix in (".py", ".pyi"):
            target = folder / file.relative_to(found / "cu13")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    lines = (found / "__init__.py").read_text().splitlines()
    (folder / "__init__.py").write_text(
        "\n".join(line for line in lines if line.startswith(("from cuda", "import cuda")))
    )
    memory = folder / "_memory" / "__init__.py"
    memory.write_text(re.split(r"^__all__ = \[", memory.read_text(), flags=re.MULTILINE)[0])
    (folder.parents[1] / "mypy.ini").write_text(
        "[mypy]\npython_version = 3.11\nstrict = True\nexplicit_package_bases = True\nwarn_unused_ignores = False\n"
        f"mypy_path = {ROOT / 'runtime'}:{folder.parents[1]}\nuntyped_calls_exclude = cuda\n"
        "[mypy-cuda.*]\nignore_errors = True\nignore_missing_imports = True\n"
    )
    return folder.parents[1]


def _mypy(stubs: Path, *paths: Path) -> str:
    options = ["--config-file", str(stubs / "mypy.ini"), "--cache-dir", str(stubs / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=stubs,
    )
    return done.stdout + done.stderr


def test_every_use_of_cuda_core_agrees_with_its_stubs(stubs: Path) -> None:
    pytest.importorskip("mypy")
    if not (FOLDER / "cu13").is_dir():
        pytest.skip("this cuda-core has no folder cu13")
    wrong = stubs / "wrong.py"
    wrong.write_text("from cuda.core import Device\nDevice(0).allocate(8, stream='x')\nDevice(0).create_strem()\n")
    found = _mypy(stubs, ROOT / "runtime" / "coda_runtime" / "backends" / "cuda", wrong)
    errors = [line for line in found.splitlines() if ": error:" in line]
    assert [line for line in errors if "coda_runtime/backends/cuda/" in line.replace("\\", "/")] == []
    assert len([line for line in errors if "wrong.py" in line]) == 2, f"the stubs are not read: {found}"
