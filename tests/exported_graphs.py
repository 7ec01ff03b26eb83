"""Every graph that the exporter makes in a test is one that a bundle may hold: looked at as it is made.

`seal` asks the same of what goes into a bundle; this is for the graphs that tests take from the exporter themselves.
The exporter is not imported for it: tests of the runtime have no PyTorch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from coda_runtime.format.graph_model import read_model
from coda_runtime.format.graph_rules import check_model

_MAKERS = {
    "coda_export.graphs.vae": (None, "_without_traces"),
    "coda_export.graphs.builder": ("GraphBuilder", "model"),
    "coda_export.graphs.single": (None, "_finished"),
    "coda_export.int8.quantize": (None, "_tidy"),
}
"""By module: what returns a finished graph, and the class that it is in."""


def watch() -> None:
    """Look at what the exporter makes from now on, once it is imported; raises where it is made."""
    for name, (owner, maker) in _MAKERS.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        place: Any = module if owner is None else getattr(module, owner)
        if not is_watched(getattr(place, maker)):
            setattr(place, maker, _checked(getattr(place, maker)))


def is_watched(maker: Callable[..., Any]) -> bool:
    return hasattr(maker, "graphs_are_checked")


def _checked(maker: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(maker)
    def make(*arguments: Any, **named: Any) -> Any:
        model = maker(*arguments, **named)
        check_model(read_model(model.SerializeToString()))
        return model

    make.graphs_are_checked = True  # type: ignore[attr-defined]
    return make
