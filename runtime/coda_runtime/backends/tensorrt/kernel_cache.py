"""Kernels that TensorRT-RTX has compiled, kept from one process to the next.

A TensorRT-RTX engine has no machine code for one GPU: its kernels are compiled when a context is made, in every process
again, unless the library is given what it compiled before. That is kept in the user's cache, in a file for each engine,
GPU and version. It is code, so only a file that nobody else can have written is believed, and one that is cut or
altered is not. What is lost without it is time alone, so that nothing here fails a load.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import CodaError
from ...io.private_files import is_private, make_private, write_private
from ...io.regular_files import open_regular
from ...io.user_folders import own_cache

FOLDER = "kernels"
MAX_BYTES = 1 << 30
_DIGEST = hashlib.sha256().digest_size


class KernelCache:
    """What the contexts of one engine compile. `facts` are what the kernels depend on: engine, GPU, versions.

    One object serves all contexts of an engine, on any thread.
    """

    def __init__(self, *facts: object) -> None:
        self._name = f"{hashlib.sha256(repr(facts).encode()).hexdigest()}.bin"
        self._raw: Any = None
        self._kept = b""
        self._lock = threading.Lock()

    def attach(self, config: Any) -> None:
        """Give what is known to a context that is going to be made with `config`."""
        with self._lock:
            if self._raw is None:
                self._raw = config.create_runtime_cache()
                data = self._read()
                if data is not None and self._raw.deserialize(data):
                    self._kept = hashlib.sha256(data).digest()
            config.set_runtime_cache(self._raw)

    def keep(self) -> None:
        """Write down what has been compiled since."""
        with self._lock:
            if self._raw is None:
                return
            data = bytes(self._raw.serialize())
            digest = hashlib.sha256(data).digest()
            if digest != self._kept and len(data) <= MAX_BYTES:
                self._kept = digest
                with suppress(OSError, CodaError):
                    self._write(digest + data)

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._raw = None

    def _read(self) -> bytes | None:
        try:
            path = _folder() / self._name
            with open_regular(path) as file:
                if not is_private(file, path):
                    return None
                found = file.read(_DIGEST + MAX_BYTES + 1)
        except (OSError, CodaError):
            return None
        digest, data = found[:_DIGEST], found[_DIGEST:]
        return data if hashlib.sha256(data).digest() == digest else None

    def _write(self, data: bytes) -> None:
        folder = _folder()
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        if all(make_private(inner) for inner in (folder.parent, folder)):
            write_private(folder / self._name, data)


def kernel_cache(trt: Any, *facts: object) -> KernelCache | None:
    """Return the cache of an engine's kernels, None of a library whose engines have machine code."""
    return None if getattr(trt, "IRuntimeCache", None) is None else KernelCache(trt.__version__, *facts)


def _folder() -> Path:
    return own_cache() / FOLDER
