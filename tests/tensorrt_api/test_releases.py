"""TensorRT's releases: from which on its bindings have every name that the code takes, asked of each release's own.

A wheel of bindings is a megabyte, and holds no library. See tests.tensorrt_api.surface.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from coda_runtime.requirements import first_version
from tests.tensorrt_api.surface import LEAN, TENSORRT, Surface, surface_of
from tests.tensorrt_api.test_uses import RTX_ONLY, check_tables
from tests.tensorrt_api.uses import ROOTS, uses

pytestmark = pytest.mark.slow


def ask(release: str, folder: Path, module: str = TENSORRT) -> Surface:
    """Download the bindings of a release, and ask them."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--no-cache-dir"]
    package = f"{module.removesuffix('_bindings').replace('_', '-')}-cu12-bindings=={release}"
    command = [*pip, "--only-binary=:all:", "-d", str(folder), package]
    subprocess.run(command, check=True, timeout=300)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(folder)
    return surface_of(module, folder)


# The first that is supported, one between, and the last before 11 and the first of it.
@pytest.mark.parametrize("release", ["10.9.0.34", "10.13.3.9.post1", "10.16.1.11", "11.0.0.114"])
def test_a_release_that_is_supported(release: str, tmp_path: Path) -> None:
    asked = ask(release, tmp_path)
    assert asked.version == release
    found = uses(asked)
    # What only TensorRT-RTX has; until 10.11 there is no IRuntimeConfig, which is made for that library alone.
    assert {name for name in found.absent if name != "ICudaEngine.create_runtime_config"} <= RTX_ONLY
    assert (found.wrong, found.unseen) == ([], set())
    check_tables(asked)


def test_the_lean_runtime_has_what_loads_and_runs(tmp_path: Path) -> None:
    parts = {module: names for module, names in ROOTS.items() if ".backends." in module.__name__}
    found = uses(ask("10.9.0.34", tmp_path, LEAN), parts)
    assert {name for name in found.absent if name != "ICudaEngine.create_runtime_config"} <= RTX_ONLY
    assert (found.wrong, found.unseen) == ([], set())
    assert {"Runtime.engine_host_code_allowed", "IExecutionContext.execute_async_v3"} <= found.used


def test_the_first_release_is_the_first_with_all_names(tmp_path: Path) -> None:
    assert first_version("tensorrt") == "10.9"
    asked = ask("10.8.0.43", tmp_path)
    with pytest.raises(AssertionError, match="SAME_COMPUTE_CAPABILITY"):
        check_tables(asked)


def test_a_release_without_a_call(tmp_path: Path) -> None:
    """That the reader would see one: these came with 10.1."""
    assert uses(ask("10.0.1", tmp_path)).absent >= {
        "ICudaEngine.device_memory_size_v2",
        "ICudaEngine.get_device_memory_size_for_profile_v2",
        "IExecutionContext.set_device_memory",
    }
