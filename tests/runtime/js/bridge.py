"""runtime/js from Python: one process of Node for all calls of a test run."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PACKAGE = Path(__file__).parents[3] / "runtime" / "js"


class JsError(Exception):
    """What a function raised: its class and its message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


class Bridge:
    def __enter__(self) -> Bridge:
        command = [tool("node", "nodejs"), str(Path(__file__).with_name("bridge.mjs"))]
        self._node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.close()
        self._node.stdout.close()
        assert self._node.wait(timeout=30) == 0

    def __call__(self, module: str, function: str, *args: Any) -> Any:
        """Arrays of uint8 go and come as bytes, of float32 and int32 as typed arrays. Raises JsError."""
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        print(json.dumps({"call": [module, function], "args": _given(args)}), file=self._node.stdin, flush=True)
        answer = json.loads(self._node.stdout.readline())
        if "error" in answer:
            raise JsError(*answer["error"])
        return _told(answer.get("value"))


def image(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """An image of runtime/js, from uint8 [H, W, C] or [H, W]."""
    return {"data": pixels, "width": pixels.shape[1], "height": pixels.shape[0]}


def _given(value: Any) -> Any:
    if isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype == np.uint8):
        return {"bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, np.ndarray):
        return {"floats" if value.dtype.kind == "f" else "ids": value.ravel().tolist()}
    if isinstance(value, dict):
        return {key: _given(item) for key, item in value.items()}
    return [_given(item) for item in value] if isinstance(value, (list, tuple)) else value


def _told(value: Any) -> Any:
    if isinstance(value, list):
        return [_told(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"bytes"}:
        return np.frombuffer(base64.b64decode(value["bytes"]), np.uint8)
    if set(value) == {"values"}:
        return np.array(value["values"])
    return {key: _told(item) for key, item in value.items()}
