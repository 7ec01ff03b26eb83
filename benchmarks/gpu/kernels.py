"""The quantizer's kernels as PTX, for sm80 (every later GPU) and for Hopper: made anywhere, added to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.gpu.shapes import check, make_tokenizer
from coda_export.folding import SearchWeights, fold_search
from coda_export.kernels import compile_quantizer, search_tables
from coda_runtime.build.bundle import copy_bundle, with_engines
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact
from coda_runtime.format.parts import QUANTIZER
from coda_runtime.format.precision import FP32
from coda_runtime.io.atomic_files import staged_folder

TARGETS = ("sm80", "sm90")


def carry(shapes: list[str], out: Path) -> None:
    """Compile the kernels of ``shapes`` into ``out``: SHAPE.TARGET.ptx and SHAPE.TARGET.json, some 100 kB each."""
    check(shapes)
    out.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        tokenizer = make_tokenizer(shape)
        quantizer, search = tokenizer.quantizer, tokenizer.quantizer.search
        with torch.no_grad():
            keys, values = search.keys(quantizer.codebook), search.values(quantizer.codebook)
            tables = search_tables(fold_search(SearchWeights(search.to_q, search.norm_q, keys, values)))
        for target, (ptx, kernels) in compile_quantizer(tokenizer.spec, tables, targets=TARGETS).items():
            (out / f"{shape}.{target}.ptx").write_bytes(ptx)
            (out / f"{shape}.{target}.json").write_text(json.dumps(kernels.to_json()), encoding="utf-8")
            print(f"{shape} {target}: {len(ptx)} bytes of PTX by Triton {kernels.library_version}", flush=True)


def file_name(target: str) -> str:
    """The PTX of a target inside a bundle."""
    return f"{QUANTIZER.name}.{QUANTIZER.precision}.{target}.ptx"


def add_kernels(bundle: Path, shape: str, carried: Path) -> None:
    """Put what `carry` made of ``shape`` into the bundle."""
    source = Bundle.open(bundle)
    with staged_folder(bundle, replace=True) as folder:
        copy_bundle(source, folder)
        made = []
        for target in TARGETS:
            file = file_name(target)
            (folder / file).write_bytes((carried / f"{shape}.{target}.ptx").read_bytes())
            kernels = json.loads((carried / f"{shape}.{target}.json").read_text(encoding="utf-8"))
            made.append(Artifact(QUANTIZER.name, "ptx", FP32, file, *describe_file(folder, file), engine=kernels))
        seal(folder, with_engines(source.manifest, made))
