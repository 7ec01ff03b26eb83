"""A tiny but real bundle: 32x32 images, downsample 8, 4 channels, 16 codes, scales 1 2 4 (21 tokens).

The encoder pools and mixes channels, the quantizer searches residuals as the real one does, the decoder embeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coda_runtime.codes.resample import upsample_matrix
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact, Manifest
from coda_runtime.format.spec import Spec

SIZE, DOWN, CHANNELS, CODES, SCALES, TOKENS = 32, 8, 4, 16, (1, 2, 4), 21
SIDE = SIZE // DOWN
SPEC = Spec("tiny", SIZE, DOWN, CHANNELS, CODES, SCALES, TOKENS)
FILES = ("encoder.fp32.onnx", "quantizer.fp32.onnx", "decoder.fp32.onnx", "codebook.fp32.npy")

_rng = np.random.default_rng(0)
MIX = _rng.normal(size=(CHANNELS, 3, 1, 1)).astype(np.float32)
TABLE = _rng.normal(size=(CODES, CHANNELS)).astype(np.float32)
OUT = (_rng.normal(size=(3, CHANNELS, 1, 1)) / 4).astype(np.float32)

PIXELS = (TensorProto.UINT8, ["B", SIZE, SIZE, 3])
LATENT = (TensorProto.FLOAT, ["B", CHANNELS, SIDE, SIDE])
IDS = (TensorProto.INT32, ["B", TOKENS])


class Graph:
    """Collects nodes and constants, so that a graph reads as a list of steps."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def save(self, path: Path, source: tuple[Any, ...], target: tuple[Any, ...]) -> None:
        infos = [helper.make_tensor_value_info(*info) for info in (source, target)]
        graph = helper.make_graph(self.nodes, path.stem, infos[:1], infos[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def upsample(self, values: str, side: int) -> str:
        """[B,C,s,s] -> [B,C,h,w]."""
        up = upsample_matrix(SIDE, side)
        return self("MatMul", self("MatMul", self.const(up), values), self.const(np.ascontiguousarray(up.T)))


def write_encoder(path: Path) -> None:
    g = Graph()
    x = g("Mul", g("Cast", "image", to=TensorProto.FLOAT), g.const(np.float32(1 / 127.5)))
    x = g("Transpose", g("Sub", x, g.const(np.float32(1))), perm=[0, 3, 1, 2])
    x = g("AveragePool", x, kernel_shape=[DOWN, DOWN], strides=[DOWN, DOWN])
    g("Conv", x, g.const(MIX), out="latent")
    g.save(path, ("image", *PIXELS), ("latent", *LATENT))


def write_quantizer(path: Path) -> None:
    g = Graph()
    residual, ids = "latent", []
    for side in SCALES:
        step = SIDE // side
        t = g("AveragePool", residual, kernel_shape=[step, step], strides=[step, step])
        t = g("Transpose", g("Reshape", t, g.const(np.int64([0, CHANNELS, side * side]))), perm=[0, 2, 1])
        found = g("ArgMax", g("MatMul", t, g.const(np.ascontiguousarray(TABLE.T))), axis=2, keepdims=0)
        ids.append(found)
        y = g("Transpose", g("Gather", g.const(TABLE), found), perm=[0, 2, 1])
        y = g("Reshape", y, g.const(np.int64([0, CHANNELS, side, side])))
        residual = g("Sub", residual, g.upsample(y, side))
    g("Cast", g("Concat", *ids, axis=1), to=TensorProto.INT32, out="ids")
    g.save(path, ("latent", *LATENT), ("ids", *IDS))


def write_decoder(path: Path) -> None:
    g = Graph()
    values = g("Gather", g.const(np.concatenate([TABLE, np.zeros((1, CHANNELS), np.float32)])), "ids")
    total, start = "", 0
    for side in SCALES:
        stop = start + side * side
        y = g("Slice", values, *(g.const(np.int64([n])) for n in (start, stop, 1)))
        y = g("Reshape", g("Transpose", y, perm=[0, 2, 1]), g.const(np.int64([0, CHANNELS, side, side])))
        y = g.upsample(y, side)
        total, start = (g("Add", total, y) if total else y), stop
    x = g("Conv", total, g.const(OUT))
    x = g("Resize", x, "", g.const(np.float32([1, 1, DOWN, DOWN])), mode="nearest")
    x = g("Round", g("Add", g("Mul", x, g.const(np.float32(127.5))), g.const(np.float32(127.5))))
    x = g("Transpose", g("Clip", x, g.const(np.float32(0)), g.const(np.float32(255))), perm=[0, 2, 3, 1])
    g("Cast", x, to=TensorProto.UINT8, out="image")
    g.save(path, ("ids", *IDS), ("image", *PIXELS))


def write_files(folder: Path) -> list[Artifact]:
    """Write the graphs and the value table; return their artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_encoder(folder / FILES[0])
    write_quantizer(folder / FILES[1])
    write_decoder(folder / FILES[2])
    np.save(folder / FILES[3], TABLE)
    return [describe(folder, file) for file in FILES]


def describe(folder: Path, file: str, **changes: Any) -> Artifact:
    part, precision, suffix = file.split(".")
    artifact = Artifact(part, suffix, precision, file, *describe_file(folder, file))
    return dataclasses.replace(artifact, **changes)


def alone(folder: Path, *artifacts: Artifact) -> Bundle:
    """A bundle of these files, without a manifest on disk."""
    return Bundle(folder, Manifest(SPEC, artifacts), b"")


def make_bundle(folder: Path) -> Path:
    """A sealed bundle, as the exporter leaves one."""
    artifacts = write_files(folder)
    measured = {"images": 2, "step_agreement": 1.0, "psnr": None}
    artifacts[0] = dataclasses.replace(artifacts[0], parity={"onnxruntime": measured})
    provenance = {"exporter": "test", "opset": 20}
    seal(folder, Manifest(SPEC, tuple(artifacts), provenance=provenance, license="CC0-1.0"))
    return folder


def make_minimal_bundle(folder: Path) -> Path:
    """A bundle made by hand: only the keys of the contract's skeleton, no value table, no SHA256SUMS."""
    write_files(folder)
    (folder / FILES[3]).unlink()
    entries = []
    for file in FILES[:3]:
        data = (folder / file).read_bytes()
        part, precision, kind = file.split(".")
        entry = {"part": part, "format": kind, "precision": precision, "file": file}
        entries.append({**entry, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "parity": {}})
    spec = {
        "image_size": SIZE,
        "num_tokens": TOKENS,
        "vocab_size": CODES,
        "scales": list(SCALES),
        "latent_channels": CHANNELS,
        "downsample": DOWN,
        "variant": "tiny",
    }
    skeleton = {"format_version": 1, "spec": spec, "provenance": {}, "default_precision": "fp32", "artifacts": entries}
    (folder / "manifest.json").write_text(json.dumps(skeleton))
    return folder


def edit_manifest(folder: Path, change: Any) -> None:
    """Apply `change` to the parsed manifest of an unsealed bundle and write it back."""
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def photos(count: int, height: int = SIZE, width: int = SIZE, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth colourful images, uint8 [count,height,width,3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = rng.uniform(1, 9, size=(count, 1, 1, 3, 2))
    phase = rng.uniform(0, 6, size=(count, 1, 1, 3))
    grid = waves[..., 0] * y[None, :, :, None] + waves[..., 1] * x[None, :, :, None] + phase
    return ((np.sin(grid) + 1) * 127.5).astype(np.uint8)
