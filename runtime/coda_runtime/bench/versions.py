"""Results of earlier versions, as this one writes them."""

from __future__ import annotations

from typing import Any

from .statistics import KNOWN_FROM, percentile, upper_bound


def upgraded(data: Any) -> Any:
    """Return results of any version as those of the present one; what is not as it should be stays for the schema.

    Version 1 had 90th and 99th percentiles of however few samples, and did not tell processes apart: they count as one,
    so that nothing is concluded from them.
    """
    version = data.get("format_version")
    if version is True or version != 1:
        return data
    cells = [_cell(cell) for cell in data["cells"]] if isinstance(data.get("cells"), list) else data.get("cells")
    return {**data, "format_version": 2, "cells": cells}


def _cell(cell: Any) -> Any:
    if not isinstance(cell, dict) or not isinstance(cell.get("measurements"), list):
        return cell
    return {**cell, "measurements": [_measurement(found) for found in cell["measurements"]]}


def _measurement(found: Any) -> Any:
    latency = found.get("latency_s") if isinstance(found, dict) else None
    samples: Any = latency.get("samples") if isinstance(latency, dict) else None
    if not isinstance(latency, dict) or not _are_times(samples):
        return found
    count, server = found.get("repeats"), found.get("server")
    count = count if isinstance(count, int) and count >= 1 else len(samples)
    quantiles = {f"p{q}": percentile(samples, q) for q in (50, *KNOWN_FROM)}
    known = {f"p{q}": latency.get(f"p{q}") if count >= enough else None for q, enough in KNOWN_FROM.items()}
    bounds = {f"p{q}_upper": upper_bound(samples, q) for q in KNOWN_FROM}
    rate = server.get("max_rate") if isinstance(server, dict) else None
    process = {"count": count, **quantiles, "parts_s": found.get("parts_s"), "max_rate": rate}
    return {**found, "processes": [process], "latency_s": {**latency, "count": count, **known, **bounds}}


def _are_times(samples: Any) -> bool:
    return isinstance(samples, list) and bool(samples) and all(isinstance(x, (int, float)) and x >= 0 for x in samples)
