"""The model card of a bundle: README.md, written from the manifest alone, and a strip of images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..format.bundle import Bundle
from ..format.manifest import Manifest
from ..format.parts import PARTS
from ..format.sizes import scales_text, shape_text
from ..hub_source.names import HubName
from ..images import require_pillow
from ..io.counts import count
from ..io.json_fields import flat_rows
from ..parity import ParitySamples
from ..parity.rows import AGREEMENT_LEGEND, PARITY_COLUMNS, parity_rows, reasons

README = "README.md"
PICTURE = "card/reconstructions.png"
MARK = "<!-- written by coda push; without this line, coda push leaves the card alone -->"

_SHOWN = 8
_GAP = 4  # pixels between images
_LICENSES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "epl-2.0", "gpl", "gpl-2.0", "gpl-3.0", "isc",
    "lgpl", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "openrail++", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
"""Names that the Hub takes for `license`; it refuses a card with another one, which must be called "other"."""


def card_text(manifest: Manifest, name: HubName, has_picture: bool) -> str:
    """Write the README.md of a bundle in a repository. What a manifest says is quoted, so that none of it is markup."""
    spec, title = manifest.spec, name.repo.partition("/")[2]
    sections = [
        "\n".join(["---", *_front_matter(manifest), "---", MARK, f"# {title}"]),
        f"A discrete image tokenizer: an image of {shape_text(spec.image_size)} pixels becomes "
        f"{count(spec.num_tokens, 'token')} of {count(spec.vocab_size, 'code')}, coarse to fine, and tokens become an "
        "image. It runs on ONNX Runtime and NumPy, without PyTorch.",
    ]
    if has_picture:
        sections.append(f"![Photographs above, their reconstructions from the tokens below]({PICTURE})")
    sections += [
        "## Use",
        _usage(name),
        "## What it computes",
        _table(
            ("", ""),
            [
                ("variant", spec.variant),
                (
                    "image",
                    f"{shape_text(spec.image_size)}, {spec.resize}, {spec.crop} crop, {spec.color_order}",
                ),
                ("latent", f"{spec.latent_channels} x {shape_text(spec.latent_size)} (downsample {spec.downsample})"),
                ("codes", spec.vocab_size),
                ("tokens", f"{spec.num_tokens}, in scales {scales_text(spec.scales)}"),
                ("precisions", f"{', '.join(manifest.precisions)} (default {manifest.default_precision})"),
                ("license of the weights", manifest.license or "not stated"),
            ],
        ),
        "## Files",
        _table(("part", "format", "precision", "MB", "file"), _files(manifest)),
    ]
    parity = [row for artifact in manifest.artifacts for row in parity_rows(artifact, artifact.parity)]
    if parity:
        measured = {artifact.file: artifact.parity for artifact in manifest.artifacts}
        notes = [AGREEMENT_LEGEND, *reasons(measured)]
        sections += ["## Parity with the float32 tokenizer", _table(PARITY_COLUMNS, parity), *map(_quoted, notes)]
    provenance = list(flat_rows(manifest.provenance))
    if provenance:
        sections += ["## Provenance", _table(("", ""), provenance)]
    return "\n\n".join(sections) + "\n"


def write_picture(bundle: Bundle, path: Path) -> bool:
    """Write the bundle's photographs above their reconstructions as PNG; False for a bundle that carries none.

    Raises ArtifactError for samples that do not fit the bundle, MissingDependencyError without Pillow.
    """
    found = bundle.manifest.find("parity", format="npz")
    if not found:
        return False
    samples = ParitySamples.load(bundle.path(found[0]), bundle.spec, bundle.read(found[0]))
    rows = [_row(images[:_SHOWN]) for images in (samples.images, samples.decoded)]
    gap = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    require_pillow().fromarray(np.concatenate([rows[0], gap, rows[1]])).save(path, format="PNG", optimize=True)
    return True


def _row(images: Any) -> Any:
    gap = np.full((images.shape[1], _GAP, 3), 255, np.uint8)
    columns = [column for image in images for column in (gap, image)]
    return np.concatenate(columns[1:], 1)


def _front_matter(manifest: Manifest) -> Iterator[str]:
    """Yield lines of YAML: free text is written as JSON, which is YAML too."""
    if manifest.license is not None:
        known = manifest.license.lower() in _LICENSES
        yield f"license: {manifest.license.lower() if known else 'other'}"
        if not known:
            slug = re.sub(r"[^a-z0-9.]+", "-", manifest.license.lower()).strip("-")
            yield f"license_name: {json.dumps(slug or 'other')}"
    yield "library_name: coda-deploy"
    yield "tags:"
    formats = sorted({artifact.format for artifact in manifest.artifacts if artifact.part in PARTS})
    for tag in ("image-tokenizer", "vector-quantization", "coda", *formats):
        yield f"- {json.dumps(tag)}"


def _usage(name: HubName) -> str:
    return f"""```python
# in a checkout of coda-deploy: pip install "./runtime[cpu,hub,images]"
import coda_runtime

with coda_runtime.load("{name}") as tokenizer:
    ids = tokenizer.encode(["photo.jpg"])  # int32 [1, L]
    images = tokenizer.decode(ids)  # uint8 [1, H, W, 3]
```"""


def _files(manifest: Manifest) -> Iterator[tuple[object, ...]]:
    for artifact in manifest.artifacts:
        yield artifact.part, artifact.format, artifact.precision, f"{artifact.bytes / 1e6:.1f}", artifact.file


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[_quoted(cell) for cell in row] + [""] * (len(columns) - len(row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(columns), ["---"] * len(columns), *lines])


def _quoted(cell: object) -> str:
    text = " ".join(str(cell).split())
    return re.sub(r"([\\`*_\[\]<>|#!~$])", r"\\\1", text)
