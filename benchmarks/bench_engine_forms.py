"""Which form of a graph TensorRT-RTX makes the fewest kernels of, by its builder's own log. Needs no GPU.

``python -m benchmarks.bench_engine_forms TOKENIZER [--target sm89] [--batch 1,4,8] [--json FILE]``: the encoder and the
decoder of a tokenizer folder with their normalisation and attention written in several ways, each built in a process of
its own. With ``--json`` a run that was cut goes on where it was. Nothing is timed: a log tells kernels and memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from diffusers.models.attention_processor import Attention

from benchmarks.common import in_fresh_process, save
from benchmarks.engine_log import formats, layers_of
from benchmarks.graph_forms import as_instance, as_layer, without_casts
from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_export import DEFAULT_OPSET, Folded
from coda_export.graphs import decoder_graph, encoder_graph, graph_opset
from coda_runtime import BuildError
from coda_runtime.backends.tensorrt.library import find_library
from coda_runtime.build.builder import build_engine
from coda_runtime.build.options import BuildOptions, parse_batch, parse_targets
from coda_runtime.format.precision import BF16, FP32

GRAPHS = {"encoder": encoder_graph, "decoder": decoder_graph}
GROUP_NORMALIZATION, ATTENTION = 21, 23
"""The opsets that these operators came with."""

# What runs on the host, or waits.
_NO_KERNELS = ("shape_call", "signal", "wait")
_CONVOLUTIONS = ("correlation", "runtime_fusion")


def forms(folded: Folded, part: str, precision: str) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Yield the name of each form, and what makes its graph."""

    @functools.cache
    def exported(opset: int) -> onnx.ModelProto:
        return GRAPHS[part](folded, precision, opset)

    first = graph_opset(precision, DEFAULT_OPSET)
    yield f"as exported, opset {first}", lambda: exported(first)
    if first < GROUP_NORMALIZATION:
        yield "GroupNormalization", lambda: exported(GROUP_NORMALIZATION)
    group = max(first, GROUP_NORMALIZATION)
    if first >= GROUP_NORMALIZATION:
        yield "InstanceNormalization", lambda: as_instance(exported(group))
    yield "LayerNormalization", lambda: as_layer(exported(group))
    attends = any(isinstance(module, Attention) for module in getattr(folded, part).modules())
    if attends:
        yield "Attention", lambda: exported(ATTENTION)
    if precision != FP32:
        yield "GroupNormalization without casts", lambda: without_casts(exported(group), "GroupNormalization")
        if attends:
            yield "Attention without casts", lambda: without_casts(exported(ATTENTION), "Attention")


def measure(graph: bytes, precision: str, target: str, batch: tuple[int, int, int]) -> dict[str, Any]:
    """Build one engine and return what its log tells; "error" where it does not build."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(graph)
        try:
            options = BuildOptions(batch, (target,))
            built = build_engine(
                find_library("tensorrt-rtx"), file, options, precision=precision, listen=messages.append
            )
        except BuildError as error:
            return {"error": str(error)}
    layers = layers_of("\n".join(messages))
    kernels = [layer for layer in layers if layer.kind not in _NO_KERNELS]
    steps = [layer.steps for layer in kernels]
    return {
        "kernels": len(kernels),
        "normalisations_fused": sum("Gnor" in one or "Inor" in one for one in steps),
        "with_silu": sum("SiluGnor" in one or "SiluInor" in one for one in steps),
        "normalisations_in_pieces": sum("SubMulMean" in one for one in steps),
        "kernels_that_cast": sum("Cast" in one for one in steps),
        "attention": sum("mha" in f"{layer.kind} {layer.name}".lower() for layer in kernels),
        "convolutions": formats(kernels, _CONVOLUTIONS),
        "engine_bytes": len(built.data),
        "scratch_bytes": None if built.scratch_bytes is None else built.scratch_bytes[0],
        "steps": sorted(filter(None, steps)),
    }


def row(name: str, found: dict[str, Any]) -> str:
    """Return a line of the table."""
    if "error" in found:
        return f"| {name} | does not build |" + " |" * 6
    normal = f"{found['normalisations_fused']} ({found['with_silu']})"
    layout = ", ".join(
        f"{count} {form}" for form, count in sorted(found["convolutions"].items(), key=lambda of: -of[1])
    )
    sizes = f"{found['engine_bytes'] / 1e6:.1f} | {(found['scratch_bytes'] or 0) / 1e6:.1f}"
    pieces = found["normalisations_in_pieces"]
    return f"| {name} | {found['kernels']} | {normal} | {pieces} | {found['kernels_that_cast']} | {layout} | {sizes} |"


def main() -> None:
    """Print a table for each part and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--parts", nargs="+", choices=GRAPHS, default=[*GRAPHS])
    parser.add_argument("--precisions", nargs="+", default=[FP32, BF16])
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--batch", default="1,4,8")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    (target,), batch = parse_targets(args.target), parse_batch(args.batch)
    folded = fold_tokenizer(CodaTokenizer.from_pretrained(args.tokenizer))
    run = {"variant": folded.spec.variant, "target": target, "batch": [*batch]}
    results: dict[str, Any] = {**run, "found": {}}
    if args.json is not None and args.json.exists():
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if {key: before.get(key) for key in run} != run:
            parser.error(f"{args.json} is of another run: {before.get('variant')}, {before.get('target')}; remove it")
        results["found"] = before["found"]
    for part in args.parts:
        for precision in args.precisions:
            print(f"\n{folded.spec.variant} {part}, {precision}, {target}, batch {args.batch}")
            print(
                "| form | kernels | normalisations in one kernel (with SiLU) | in pieces | kernels that cast "
                "| convolutions read | engine, MB | scratch, MB |"
            )
            for name, make in forms(folded, part, precision):
                key = f"{part} {precision} {name}"
                if key not in results["found"]:
                    graph = make().SerializeToString()
                    results["found"][key] = in_fresh_process(measure, graph, precision, target, batch)
                    save(args.json, results, quiet=True)
                print(row(name, results["found"][key]), flush=True)


if __name__ == "__main__":
    main()
