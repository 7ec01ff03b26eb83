"""How the search's block and step sizes trade off: the exported quantizer at both published shapes.

``python -m benchmarks.bench_search``. The defaults in coda_export/graphs/search.py come from here.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.bench_quantizer import SHAPES, build
from benchmarks.common import interleaved, save, session_options, show
from coda_deploy.tokenizer.variants import VARIANTS
from coda_export.graphs import quantizer_graph
from coda_export.graphs import search as search_graph
from coda_runtime.format.parts import LATENT

SIZES = (
    (64, 16, 64),
    (64, 32, 128),
    (128, 8, 8),
    (128, 8, 64),
    (128, 16, 64),
    (128, 32, 64),
    (128, 16, 128),
    (256, 8, 32),
)


def _name(block: int, steps: int, short: int) -> str:
    return f"block {block}, {steps} or {short} a step"


def measure(shape: str, repeats: int) -> dict[str, Any]:
    """Measure the median seconds for each (block, blocks a step, blocks a short step)."""
    config = VARIANTS[SHAPES[shape]]
    _, folded = build(config)
    feed = {"latent": (0.3 * torch.randn(LATENT.shape(config.spec, 1))).numpy()}
    default = search_graph.BLOCK, search_graph.BLOCKS_PER_STEP, search_graph.BLOCKS_PER_SHORT_STEP
    runs = {}
    try:
        for sizes in SIZES:
            search_graph.BLOCK, search_graph.BLOCKS_PER_STEP, search_graph.BLOCKS_PER_SHORT_STEP = sizes
            session = onnxruntime.InferenceSession(
                quantizer_graph(folded).SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
            runs[_name(*sizes)] = partial(session.run, None, feed)
    finally:
        search_graph.BLOCK, search_graph.BLOCKS_PER_STEP, search_graph.BLOCKS_PER_SHORT_STEP = default
    medians = interleaved(runs, repeats)
    show(f"{config.variant}, batch 1", medians, _name(*default))
    return {"median_s": medians}


def main() -> None:
    """Measure both shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    save(args.json, {shape: measure(shape, args.repeats) for shape in SHAPES})


if __name__ == "__main__":
    main()
