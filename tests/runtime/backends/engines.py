"""Engines of the fake TensorRT, made from the tiny bundle's graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from coda_runtime.backends.cuda import open_device
from coda_runtime.backends.tensorrt.engine import Engine
from coda_runtime.backends.tensorrt.session import TensorRTSession
from coda_runtime.format.bundle import describe_file
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.profiles import Batch
from tests.runtime import tiny
from tests.runtime.backends.cuda import fake_trt

FILES = {part: f"{part}.fp32.onnx" for part in ("encoder", "quantizer", "decoder")}
REBUILD = "coda build BUNDLE --engine tensorrt"


def write(folder: Path, bundle: Path, part: str, *profiles: Batch, **told: Any) -> Artifact:
    """Write an engine file to `folder`; `told` is what it says of itself that is not so in the bundle's graph."""
    name = f"{part}.engine"
    content = {"onnx": str(bundle / FILES[part]), "profiles": profiles, **told}
    (folder / name).write_text(json.dumps(content))
    sha256, size = describe_file(folder, name)
    return Artifact(part, "tensorrt", "fp32", name, sha256, size).with_profiles(profiles)


def session(
    folder: Path,
    bundle: Path,
    part: str = "decoder",
    batch: Batch = (1, 2, 4),
    *more: Batch,
    trt: Any = None,
    index: int = 0,
    **options: Any,
) -> TensorRTSession:
    """A session on a device of the stand-in for the driver, of an engine of one batch profile or more."""
    trt = trt or fake_trt.make()
    layer = open_device(index)
    artifact = write(folder, bundle, part, batch, *more)
    path = folder / artifact.file
    with layer.active():
        engine = Engine(trt, path, path.read_bytes(), artifact, REBUILD, allow_host_code=False)
    return TensorRTSession(engine, layer, library="tensorrt", **options)


def ids(count: int, seed: int = 0) -> Any:
    """Random ids, int32 [count,L]."""
    return np.random.default_rng(seed).integers(0, tiny.CODES, size=(count, tiny.TOKENS), dtype=np.int32)
