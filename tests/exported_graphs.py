"""Every graph that the exporter makes in a test is one that a bundle may hold: looked at as it is made.

`seal` asks the same of what goes into a bundle; this is for the graphs that tests take from the exporter themselves.
And what is exported again, the same module to the same part and opset, is traced once in a run of the tests, whichever
process asks: tracing takes most of the time of an export. The exporter is not imported for any of it: tests of the
runtime have no PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coda_runtime.format.graph_model import read_model
from coda_runtime.format.graph_rules import check_model
from coda_runtime.format.parts import Part

_MAKERS = {
    "coda_export.graphs.vae": (None, "_without_traces"),
    "coda_export.graphs.builder": ("GraphBuilder", "model"),
    "coda_export.graphs.single": (None, "_finished"),
    "coda_export.int8.quantize": (None, "_tidy"),
}
"""By module: what returns a finished graph, and the class that it is in."""


_TRACER = "coda_export.graphs.vae", "_export"
"""What traces a module."""


def watch(traced: Path) -> None:
    """Look at what the exporter makes from now on, once it is imported; raises where it is made.

    ``traced``: the folder of what was traced before, of all processes of this run.
    """
    module = sys.modules.get(_TRACER[0])
    if module is not None and not is_watched(getattr(module, _TRACER[1])):
        setattr(module, _TRACER[1], traced_once(getattr(module, _TRACER[1]), traced))
    for name, (owner, maker) in _MAKERS.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        place: Any = module if owner is None else getattr(module, owner)
        if not is_watched(getattr(place, maker)):
            setattr(place, maker, _checked(getattr(place, maker)))


def is_watched(maker: Callable[..., Any]) -> bool:
    return hasattr(maker, "is_watched")


def _checked(maker: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(maker)
    def make(*arguments: Any, **named: Any) -> Any:
        model = maker(*arguments, **named)
        check_model(read_model(model.SerializeToString()))
        return model

    make.is_watched = True  # type: ignore[attr-defined]
    return make


def traced_once(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return ``export``, a module's graph by module, part, spec and opset, so that it is asked once for each."""

    @functools.wraps(export)
    def make(*arguments: Any) -> Any:
        import onnx

        key = _content(arguments)
        if key is None:
            return export(*arguments)
        file = folder / f"{key}.onnx"
        if file.exists():
            return onnx.load(file)
        model = export(*arguments)
        folder.mkdir(exist_ok=True)
        written = folder / f"{key}.{os.getpid()}"
        onnx.save(model, written)
        written.replace(file)
        return model

    make.is_watched = True  # type: ignore[attr-defined]
    return make


def _content(arguments: tuple[Any, ...]) -> str | None:
    """All that decides what is traced: weights and structure, to the last attribute. None if it cannot be written."""
    import torch

    written = io.BytesIO()
    try:
        # A part holds functions, which have no content to write; its name says all.
        torch.save([given.name if isinstance(given, Part) else given for given in arguments], written)
    except (AttributeError, TypeError, pickle.PicklingError):  # of a class inside a test, say
        return None
    return hashlib.sha256(written.getbuffer()).hexdigest()
