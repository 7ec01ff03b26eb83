"""The page's folder, written at once: page, runtime, bundle, examples, and the engine where it is to be carried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..errors import InputError, OutputError
from ..format.bundle import Bundle
from ..format.manifest import Artifact
from ..format.parts import DECODER, ENCODER, QUANTIZER
from ..format.precision import FP32
from ..io.atomic_files import staged_folder
from ..io.npy import read_npz
from .engine import CDN, ENGINE_VERSION, ENGINES, vendored
from .png import png_bytes

SITE_FILE = "site.json"
"""What the page reads first: which bundle, in which precisions, which engine from where."""

_MAX_EXAMPLES = 8
_SERVICE_WORKER = "sw.js"
_PARITY = "parity"


@dataclass(frozen=True)
class Site:
    """What was written: file names with their bytes, and the precisions that the page offers.

    `later` are the files that only precisions after the first take.
    """

    files: dict[str, int]
    precisions: tuple[str, ...]
    later: frozenset[str] = frozenset()

    @property
    def download(self) -> int:
        """Bytes that a visitor loads in the first precision, without the engine."""
        return sum(
            size for name, size in self.files.items() if name not in self.later and not name.startswith("engine/")
        )


def write_site(
    bundle: Bundle,
    out: Path,
    *,
    precisions: Sequence[str] = (),
    vendor: Path | None = None,
    force: bool = False,
) -> Site:
    """Write a page that runs a bundle in the browser, as a folder that any file server can serve.

    Args:
        bundle: whose files are checked as they are copied.
        out: the folder; a page that is there already is replaced with `force`.
        precisions: those to carry, the first as the page's default; the bundle's default alone where none is named.
        vendor: a node_modules folder with onnxruntime-web, whose files are carried; None takes them from a CDN.
        force: replace a page that is in `out`.

    Raises:
        InputError: the bundle lacks a precision, or `vendor` the package.
        ChecksumError, ArtifactError: a file of the bundle is altered, or may not be loaded.
        OutputError: `out` holds something else, or cannot be written.
    """
    _check_out(out, force=force)
    chosen = tuple(dict.fromkeys(precisions)) or (bundle.manifest.default_precision,)
    contents = dict(_contents(bundle, chosen, vendor))
    contents[SITE_FILE] = _described(bundle, chosen, contents, carried=vendor is not None)
    contents[_SERVICE_WORKER] = _service_worker(contents)
    with staged_folder(out, replace=True) as folder:
        for name, data in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    all_graphs, first = ({f"bundle/{it.file}" for it in _artifacts(bundle, some)} for some in (chosen, chosen[:1]))
    return Site({name: len(data) for name, data in contents.items()}, chosen, frozenset(all_graphs - first))


def _check_out(out: Path, *, force: bool) -> None:
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / SITE_FILE).is_file():
        raise OutputError(f"{out} holds something that is no page of `coda site`; choose another --out, or empty it")
    if not force:
        raise OutputError(f"{out} holds a page already; replace it with --force, or choose another --out")


def _contents(bundle: Bundle, precisions: Sequence[str], vendor: Path | None) -> Iterator[tuple[str, bytes]]:
    page = files(__package__) / "page"
    for entry in page.iterdir():
        if entry.name.endswith((".html", ".js", ".svg")):
            yield entry.name, entry.read_bytes()
    styles = (files("coda_runtime.report") / "page.css", page / "site.css")
    yield "style.css", b"".join(style.read_bytes() for style in styles)
    for script in sorted(_runtime().glob("*.js")):
        if script.name != "node.js":
            yield f"runtime/{script.name}", script.read_bytes()
    for name, data in bundle.read_lists().items():
        yield f"bundle/{name}", data
    for artifact in _artifacts(bundle, precisions):
        yield f"bundle/{artifact.file}", bundle.read(artifact)
    yield from _examples(bundle)
    if vendor is not None:
        for name, data in vendored(vendor):
            yield f"engine/{name}", data


def _runtime() -> Path:
    """Return the folder of the JavaScript runtime's sources: beside this file in a wheel, runtime/js in a checkout."""
    inside = Path(__file__).parent / "js" / "src"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "js" / "src"


def _artifacts(bundle: Bundle, precisions: Sequence[str]) -> Iterator[Artifact]:
    wanted = [(QUANTIZER.name, FP32)]
    wanted += [(part.name, precision) for precision in precisions for part in (ENCODER, DECODER)]
    for part, precision in wanted:
        found = bundle.manifest.find(part, format="onnx", precision=precision)
        if not found:
            there = ", ".join(a.precision for a in bundle.manifest.find(part, format="onnx"))
            raise InputError(f"{bundle.folder} has no {part} in {precision}, only {there or 'none'}; choose of these")
        yield found[0]
    if bundle.codebook is None:
        raise InputError(
            f"{bundle.folder} has no value table (part 'codebook', format 'npy'), which the page needs for "
            "the colours of its tokens; export the bundle again with `coda export`"
        )
    yield bundle.codebook


def _examples(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Yield the photographs that the bundle was measured on, as PNG; none where it has none."""
    for artifact in bundle.manifest.find(_PARITY, format="npz")[:1]:
        try:
            images = read_npz(bundle.folder / artifact.file, read=bundle.read(artifact))["images"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{artifact.file} holds no images ({error}); run `coda verify --parity`") from error
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise InputError(
                f"{artifact.file} has images {images.dtype} {list(images.shape)}, expected uint8 [N,H,W,3]; "
                "run `coda verify --parity`"
            )
        for index, image in enumerate(images[:_MAX_EXAMPLES]):
            yield f"examples/{index}.png", png_bytes(image)


def _described(bundle: Bundle, precisions: Sequence[str], contents: dict[str, bytes], *, carried: bool) -> bytes:
    base = "engine/" if carried else CDN
    engines = {
        name: {"module": module.to_json(), "binary": binary.to_json()} for name, (module, binary) in ENGINES.items()
    }
    described = {
        "format_version": 1,
        "variant": bundle.spec.variant,
        "license": bundle.manifest.license,
        "bundle": "bundle/",
        "precisions": list(precisions),
        "examples": sorted(name for name in contents if name.startswith("examples/")),
        "engine": {"version": ENGINE_VERSION, "base": base, "providers": engines},
    }
    return json.dumps(described, indent=2).encode() + b"\n"


def _service_worker(contents: dict[str, bytes]) -> bytes:
    """Return sw.js, told what the page consists of: another page has another version, and is fetched anew."""
    digest = hashlib.sha256()
    for name, data in sorted(contents.items()):
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    shell = ["./", *(name for name in contents if "/" not in name or name.startswith("runtime/"))]
    told = {
        "version": digest.hexdigest()[:16],
        "shell": [name for name in shell if name != _SERVICE_WORKER],
        "files": ["./", *contents],
        "integrity": [file.integrity for engine in ENGINES.values() for file in engine],
    }
    return f"const PAGE = {json.dumps(told)};\n".encode() + contents[_SERVICE_WORKER]
