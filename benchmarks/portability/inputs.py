"""What every processor is given: the sample's bundle, and of both golden cases the tokenizer and the quantizer's graph.

Made once, on this machine as it is, so that a difference is the engine's and not the exporter's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coda_deploy import CodaTokenizer, photographs
from coda_deploy.export import export_tokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.official import import_official
from coda_deploy.sample import tokenizer_path
from coda_export import Threshold
from coda_export.graphs import quantizer_graph
from coda_export.kernels import search_tables
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.format.bundle import Bundle
from coda_runtime.parity import SavedReference
from tests import tiny_tokenizers
from tests.golden import VARIANTS, Golden, write_checkpoint

BUNDLE, TASK, GRAPH, TOKENIZER, LATENT = "bundle", "task.json", "quantizer.onnx", "tokenizer", "latent.npy"
ATTENTION = "attention"
"""A small tokenizer of MAR's kind of VAE, which has the attention that the sample's lacks."""
CHOSEN = (("dandelion", 66, 451), ("coffee", 51, 275), ("sunset", 43, 200))
"""Near ties: photographs, and the top left corner of a square of the sample's size in each.

Of 1552 squares at random, 7 had other ids where onnxruntime left out its highest level of optimization, on the same
AVX-512 processor; these are three of them.
"""


class Inputs:
    """The folder, and what the answers are judged by."""

    def __init__(self, folder: Path, images: int, progress: Callable[[str], None]) -> None:
        self.folder = folder
        progress("exporting the sample tokenizer")
        export_tokenizer(tokenizer_path(), folder / BUNDLE)
        reference = SavedReference.open(Bundle.open(folder / BUNDLE))
        self.samples, self.images = reference.samples, images
        self.quantizers = {"sample": reference.quantizer}
        self.latents: dict[str, NDArray[np.float32]] = {"sample": reference.samples.latent[:images]}
        self.golden: dict[str, NDArray[np.int32]] = {}
        for variant in VARIANTS:
            progress(f"importing the golden case {variant}")
            self._golden_case(variant)
        progress("exporting a small tokenizer with attention")
        small = tiny_tokenizers.make("mar")
        small.save_pretrained(folder / TOKENIZER)
        export_tokenizer(folder / TOKENIZER, folder / ATTENTION, thresholds={"fp32": Threshold(0, 0)})
        size = reference.samples.images.shape[1]
        np.save(folder / "chosen.npy", np.stack([_square(*chosen, size) for chosen in CHOSEN]))
        np.save(folder / "small.npy", np.stack([_square(name, 0, 0, small.spec.height) for name, *_ in CHOSEN]))
        np.save(folder / "ids.npy", self.samples.ids[:images])
        task = {"tokenizer": str(tokenizer_path()), "images": [str(path) for path in photographs.paths()[:images]]}
        (folder / TASK).write_text(json.dumps(task | {"golden": list(VARIANTS)}), encoding="utf-8")

    def _golden_case(self, variant: str) -> None:
        golden, folder = Golden(variant), self.folder / variant
        tokenizer = import_official(write_checkpoint(variant, folder / "official"), variant)
        shutil.rmtree(folder / "official")
        tokenizer.save_pretrained(folder / TOKENIZER)
        quantizer = fold_tokenizer(tokenizer).quantizer
        (folder / GRAPH).write_bytes(quantizer_graph(quantizer).SerializeToString())
        np.save(folder / LATENT, golden.latent)
        values = quantizer.search.values.numpy()
        self.quantizers[variant] = NumpyQuantizer(quantizer.spec, search_tables(quantizer.search), values)
        self.latents[variant], self.golden[variant] = golden.latent, golden.ids


def _square(name: str, top: int, left: int, size: int) -> NDArray[np.uint8]:
    path = next(path for path in photographs.paths() if path.stem == name)
    return np.asarray(Image.open(path).convert("RGB"))[top : top + size, left : left + size]


def golden_tokenizer(folder: Path, variant: str) -> CodaTokenizer:
    """Return the golden case's tokenizer, as `Inputs` left it."""
    return CodaTokenizer.from_pretrained(folder / variant / TOKENIZER)
