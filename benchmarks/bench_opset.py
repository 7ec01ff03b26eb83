"""Which opset onnxruntime's CPU provider runs fastest, for the encoder and decoder of a tokenizer folder.

``python -m benchmarks.bench_opset TOKENIZER``. Opset 20 writes GroupNorm as InstanceNormalization, 21 as
GroupNormalization, 23 attention as Attention. DEFAULT_OPSET in coda_export/bundle.py comes from here.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import Run, interleaved, save, session_options, show
from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_export.graphs import decoder_graph, encoder_graph
from coda_runtime.format.parts import DECODER, ENCODER

OPSETS = (20, 21, 23)


def main() -> None:
    """Export each opset, time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folded = fold_tokenizer(CodaTokenizer.from_pretrained(args.tokenizer))
    spec, rng = folded.spec, np.random.default_rng(0)
    feeds = {
        part.name: {part.input.name: rng.integers(0, limit, part.input.shape(spec, 1), part.input.dtype)}
        for part, limit in ((ENCODER, 256), (DECODER, spec.vocab_size))
    }
    results = {}
    for part, graph in (("encoder", encoder_graph), ("decoder", decoder_graph)):
        runs: dict[str, Run] = {}
        for opset in OPSETS:
            session = onnxruntime.InferenceSession(
                graph(folded, "fp32", opset).SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
            runs[f"opset {opset}"] = partial(session.run, None, feeds[part])
        results[part] = interleaved(runs, args.repeats)
        show(f"{spec.variant} {part}, batch 1", results[part], f"opset {OPSETS[0]}")
    save(args.json, results)


if __name__ == "__main__":
    main()
