"""examples/cpp, node and csharp on the shipped photographs: their ids are Python's, their pixels too.

Compilers are Debian's: g++, and for C# mcs with Mono, where OnnxRuntimeForMono.cs stands in for Microsoft's package,
which is on NuGet and needs .NET. The native library is that of the onnxruntime wheel; its headers, which the wheel
lacks, are those that npm's com.github.asus4.onnxruntime carries: a plugin for Unity, and the one package of a registry
that has them, while Microsoft's own releases are on GitHub.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import coda_deploy
import coda_runtime
from coda_deploy.export import export_tokenizer, parity_images

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HEADERS = "com.github.asus4.onnxruntime@0.4.9"
PROGRAMS = ("cpp", "node", "csharp")


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def run(*command: object, given: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = list(map(str, command))
    return subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=600, cwd=folder)


def must(*command: object, folder: Path | None = None) -> str:
    done = run(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's native library under the names that linkers and loaders look for."""
    (found,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("ort")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime_cxx_api.h and what it includes."""
    folder = tmp_path_factory.mktemp("headers")
    packed = must(tool("npm", "npm"), "pack", "--silent", HEADERS, folder=folder).split()[-1]
    wanted = "ios-arm64/onnxruntime.framework/Headers/"
    with tarfile.open(folder / packed) as archive:
        for member in archive:
            if wanted in member.name and member.isfile():
                data = archive.extractfile(member)
                assert data is not None
                (folder / Path(member.name).name).write_bytes(data.read())
    return folder


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs a language's program."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "cpp":
        compiler, out = tool("g++", "g++"), folder / "coda_tokens"
        where, includes = request.getfixturevalue("library"), request.getfixturevalue("headers")
        warnings = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-isystem", includes]
        link = ["-L", where, f"-Wl,-rpath,{where}", "-lonnxruntime", "-o", out]
        must(compiler, *warnings, EXAMPLES / "cpp" / "coda_tokens.cpp", *link)
        return [str(out)]
    if request.param == "node":
        for name in ("package.json", "package-lock.json", "coda_tokens.js"):
            shutil.copy(EXAMPLES / "node" / name, folder)
        must(tool("npm", "npm"), "ci", "--ignore-scripts", "--silent", folder=folder)
        return [tool("node", "nodejs"), str(folder / "coda_tokens.js")]
    compiler, out = tool("mcs", "mono-mcs"), folder / "coda_tokens.exe"
    sources = [EXAMPLES / "csharp" / "Program.cs", Path(__file__).with_name("OnnxRuntimeForMono.cs")]
    must(compiler, "-warnaserror", f"-out:{out}", "-r:System.Core.dll", *sources)
    library = f"LD_LIBRARY_PATH={request.getfixturevalue('library')}"
    return [tool("env", "coreutils"), library, tool("mono", "mono-runtime"), str(out)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample tokenizer's, with a single graph."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    sample = Path(coda_deploy.__file__).parent / "sample" / "tokenizer"
    export_tokenizer(sample, out, single_graph=True)
    return out


@pytest.fixture(scope="module")
def photographs(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], NDArray[np.int32]]:
    """The eight photographs as raw pixels, and their ids by Python."""
    folder = tmp_path_factory.mktemp("pixels")
    with coda_runtime.load(bundle, device="cpu") as tok:
        pixels = parity_images(tok.spec.image_size).pixels
        ids = tok.encode(pixels)
    assert len(pixels) == 8
    paths = [folder / f"{index}.rgb" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        path.write_bytes(image.tobytes())
    return paths, ids


def test_ids_and_pixels_are_python_s(
    program: list[str], bundle: Path, photographs: tuple[list[Path], NDArray[np.int32]], tmp_path: Path
) -> None:
    paths, ids = photographs
    done = run(*program, bundle, "encode", *paths)
    assert done.returncode == 0, done.stderr
    assert (np.array([json.loads(line) for line in done.stdout.splitlines()]) == ids).all()
    outs = [tmp_path / path.name for path in paths]
    back = run(*program, bundle, "decode", *outs, given=done.stdout)
    assert back.returncode == 0, back.stderr
    with coda_runtime.load(bundle, device="cpu") as tok:
        decoded = tok.decode(ids)
    found = np.stack([np.frombuffer(out.read_bytes(), np.uint8).reshape(decoded.shape[1:]) for out in outs])
    # Another release of the library may round a pixel the other way.
    assert np.abs(found.astype(int) - decoded).max() <= 1


def test_what_is_wrong_is_said(program: list[str], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "short.rgb").write_bytes(bytes(5))
    short = run(*program, bundle, "encode", tmp_path / "short.rgb")
    assert (short.returncode, "has 5 bytes, expected 128 * 128 * 3" in short.stderr) == (1, True)
    few = run(*program, bundle, "decode", tmp_path / "out.rgb", given="[1, 2]\n")
    assert (few.returncode, "a line has 2 ids, expected 680" in few.stderr) == (1, True)
    assert run(*program, bundle, "paint", tmp_path / "out.rgb").returncode == 2
