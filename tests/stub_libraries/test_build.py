from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stub_libraries

pytestmark = pytest.mark.skipif(stub_libraries.lacks() is not None, reason=str(stub_libraries.lacks()))
ASK = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).ask())"


def compile_library(folder: Path, name: str, code: str, *flags: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "source.c").write_text(code)
    command: list[str | Path] = [
        "cc",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{name}",
        "-o",
        folder / name,
        folder / "source.c",
        *flags,
    ]
    subprocess.run(command, check=True, timeout=60)
    return folder / name


def ask(binary: Path, stubs: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LD_LIBRARY_PATH": str(stubs)}
    command = [sys.executable, "-c", ASK, str(binary)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("versioned", [True, False], ids=["symbols with a version", "symbols without one"])
def test_a_binary_loads_over_stubs_of_what_it_was_linked_with(tmp_path: Path, versioned: bool) -> None:
    (tmp_path / "versions").write_text("libnvmade.so.3 { global: *; };" if versioned else "{ global: *; };")
    flag = f"-Wl,--version-script={tmp_path / 'versions'}"
    real = compile_library(tmp_path / "real", "libnvmade.so.3", "int nvmadeAnswer(void) { return 7; }", flag)
    code = "int nvmadeAnswer(void); int ask(void) { return nvmadeAnswer(); }"
    binary = compile_library(tmp_path / "binary", "libuser.so", code, str(real))
    assert ask(binary, real.parent).stdout == "7\n"
    assert "libnvmade.so.3" in ask(binary, tmp_path / "nowhere").stderr, "it does not load without"

    silent = stub_libraries.build(tmp_path / "silent", [binary])
    assert ask(binary, silent).stdout == "0\n"
    written = tmp_path / "written.c"
    written.write_text("int nvmadeAnswer(void) { return 41; }")
    own = stub_libraries.build(tmp_path / "own", [binary], {"libnvmade.so": written})
    assert ask(binary, own).stdout == "41\n"


def test_cuda_s_driver_shows_one_gpu(tmp_path: Path) -> None:
    stubs = stub_libraries.build(tmp_path, [], stub_libraries.CUDA, ["libcuda.so.1"])
    code = "from coda_runtime.machine.devices import count_cuda_devices; print(count_cuda_devices())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "1\n"
