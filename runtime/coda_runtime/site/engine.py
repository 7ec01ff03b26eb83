"""onnxruntime-web as the page takes it: which files of the npm package, and their integrity hashes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line
from ..io.counts import count

PACKAGE = "onnxruntime-web"
ENGINE_VERSION = "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{ENGINE_VERSION}/dist/"


@dataclass(frozen=True)
class EngineFile:
    """A file of the package's dist/, its size in bytes and its hash as browsers check it."""

    name: str
    bytes: int
    integrity: str

    def to_json(self) -> dict[str, Any]:
        """Return what the page reads."""
        return {"file": self.name, "bytes": self.bytes, "integrity": self.integrity}


# By execution provider: the module, which holds the glue of its binary, and the binary.
ENGINES = {
    "wasm": (
        EngineFile(
            "ort.wasm.bundle.min.mjs",
            73054,
            "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
        ),
        EngineFile(
            "ort-wasm-simd-threaded.wasm",
            14239897,
            "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
        ),
    ),
    "webgpu": (
        EngineFile(
            "ort.webgpu.bundle.min.mjs",
            117732,
            "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
        ),
        EngineFile(
            "ort-wasm-simd-threaded.asyncify.wasm",
            26781914,
            "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
        ),
    ),
}


def integrity(data: bytes) -> str:
    """Return the hash of a file as browsers check it."""
    return f"sha384-{base64.b64encode(hashlib.sha384(data).digest()).decode()}"


def vendored(node_modules: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of every file of `ENGINES` in a node_modules folder, checked.

    Raises InputError for a folder without the package, for another version of it, and for an altered file.
    """
    install = f"npm install --ignore-scripts {PACKAGE}@{ENGINE_VERSION}"
    folder = node_modules / PACKAGE
    try:
        found = json.loads((folder / "package.json").read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{node_modules} has no {PACKAGE} ({one_line(error)}); {install}") from error
    if found != ENGINE_VERSION:
        raise InputError(f"{folder} is version {found}, and the page is for {ENGINE_VERSION}; {install}")
    for file in (file for files in ENGINES.values() for file in files):
        path = folder / "dist" / file.name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); {install}") from error
        if integrity(data) != file.integrity:
            raise InputError(
                f"{path} has {count(len(data), 'byte')} and is not the published file: it is altered; {install}"
            )
        yield file.name, data
