"""A wheel of onnxruntime-gpu, unpacked, and a Python that runs its library on stubs of CUDA (tests.stub_libraries).

`libonnxruntime_providers_cuda.so` starts on them, tells its kernels and places graphs. It computes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests import stub_libraries

ROOT = Path(__file__).parents[2]
_NOT_NEEDED = ("onnxruntime/transformers/", "onnxruntime/tools/", "onnxruntime/quantization/")


@dataclass(frozen=True)
class Wheel:
    """An unpacked release. `site` goes on PYTHONPATH before what is installed, `stubs` on LD_LIBRARY_PATH."""

    release: str
    site: Path
    stubs: Path

    def python(self, *arguments: str, timeout: int = 300) -> str:
        """Run Python with this onnxruntime and one GPU that there is not; return what it printed."""
        paths = [self.site, ROOT, ROOT / "export", ROOT / "runtime"]
        variables = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "LD_LIBRARY_PATH": str(self.stubs)}
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **variables, "ORT_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"onnxruntime-gpu {self.release} on stubs: {done.returncode}\n{done.stderr[-4000:]}")
        return done.stdout


def fetch(release: str, folder: Path) -> Wheel:
    """Download a release from PyPI, 300 MB, unless it is in `folder` already, and make stubs for it."""
    site = folder / release
    if not site.exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "-q",
            "--no-deps",
            "--no-cache-dir",
        ]
        packed = folder / f"{release}.download"
        command = [*pip, "--only-binary=:all:", "-d", str(packed), f"onnxruntime-gpu=={release}"]
        subprocess.run(command, check=True, timeout=900)
        (file,) = packed.glob("*.whl")
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(site, [name for name in wheel.namelist() if not name.startswith(_NOT_NEEDED)])
        file.unlink()
    providers = [site / f"onnxruntime/capi/libonnxruntime_providers_{name}.so" for name in ("cuda", "tensorrt")]
    stubs = stub_libraries.build(folder / f"{release}.stubs", providers, stub_libraries.CUDA, ["libcuda.so.1"])
    return Wheel(release, site, stubs)
