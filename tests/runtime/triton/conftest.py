"""Bundles with TensorRT engines as far as the manifest goes: the files are no engines, and nothing here runs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coda_runtime.build.options import BuildOptions
from coda_runtime.format.bundle import describe_file, seal
from coda_runtime.format.engine_key import EngineKey
from coda_runtime.format.manifest import Artifact, Manifest
from tests.runtime import tiny

MEASURED = {"tensorrt:cuda": {"images": 2, "step_agreement": 1.0, "psnr": None}}
NOT_RUN = {"tensorrt:cuda": {"reason": "no GPU here"}}
PARTS = ("encoder", "quantizer", "decoder")


def engine(folder: Path, source: Artifact, target: str = "sm89", **changes: Any) -> Artifact:
    """An engine's file and artifact; `changes` to the artifact, or to its key where they are the key's."""
    library = changes.pop("library", "tensorrt")
    file = f"engines/{source.part}.{source.precision}.{library}-{target}.engine"
    (folder / "engines").mkdir(exist_ok=True)
    (folder / file).write_bytes(f"no engine, {file}".encode())
    options = changes.pop("options", BuildOptions((1, 4, 8)))
    made_here = EngineKey.made_here(
        library=library,
        library_version="11.0.0.14",
        targets=(target,),
        onnx=source,
        flags=options.flags(),
        gpu="NVIDIA L4",
        driver="580.1",
    )
    key = made_here.to_json() | {"os": "linux-x86_64"}
    key |= {name: changes.pop(name) for name in list(changes) if name in key}
    made = Artifact(source.part, library, source.precision, file, *describe_file(folder, file), engine=key)
    return dataclasses.replace(made.with_profiles(options.profiles), **{"parity": MEASURED, **changes})


Engines = Callable[[Path, list[Artifact]], list[Artifact]]


@pytest.fixture
def with_engines(tmp_path: Path) -> Callable[[Engines], Path]:
    """Makes a sealed bundle of the tiny files and the engines that a function makes of (folder, its ONNX files)."""

    def make(engines: Engines) -> Path:
        folder = tmp_path / "bundle"
        artifacts = tiny.write_files(folder)
        seal(folder, Manifest(tiny.SPEC, (*artifacts, *engines(folder, artifacts[:3]))))
        return folder

    return make
