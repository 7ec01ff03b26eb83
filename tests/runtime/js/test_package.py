"""The npm package: its contents, its types, and in Node the ids and pixels of Python, for the shipped photographs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import coda_runtime
from coda_deploy import photographs
from coda_runtime.codes.tokens_file import read_tokens, write_tokens
from tests.runtime.js.bridge import PACKAGE, tool
from tests.runtime.js.npm import must

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The photographs as Pillow decodes them, in their own sizes: for Node has no decoder."""
    folder = tmp_path_factory.mktemp("pixels")
    found = []
    for path in photographs.paths():
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        (folder / f"{path.stem}.rgb").write_bytes(image.tobytes())
        found.append(f"{image.width}x{image.height}:{folder / path.stem}.rgb")
    return found


def test_what_npm_would_publish(npm_package: Path) -> None:
    (packed,) = json.loads(must(tool("npm", "npm"), "pack", "--dry-run", "--json", folder=npm_package))
    found = {entry["path"] for entry in packed["files"]}
    sources = {f"src/{path.name}" for path in (PACKAGE / "src").iterdir()}
    assert found == {"package.json", "README.md", "LICENSE", *sources}


def test_types_hold(npm_package: Path) -> None:
    must(npm_package / "node_modules" / ".bin" / "tsc", "-p", ".", folder=npm_package)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_node_gives_python_s_ids(
    npm_package: Path, sample_bundle: Path, pixels: list[str], precision: str, tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).with_name("node_ids.mjs"), npm_package)
    out = must(
        tool("node", "nodejs"),
        "node_ids.mjs",
        sample_bundle,
        precision,
        tmp_path / "t.npz",
        tmp_path,
        *pixels,
        folder=npm_package,
    )
    told = json.loads(out)
    with coda_runtime.load(sample_bundle, device="cpu", precision=precision) as tok:
        ids = tok.encode(list(map(str, photographs.paths())))
        file = read_tokens(tmp_path / "t.npz", tok)
        assert file.known
        assert file.names == tuple(f"{index}.jpg" for index in range(8))
        assert (file.ids == ids).all()
        images, latents = tok.decode(ids), tok.embed(ids[:2])
        spec = tok.spec
    found = np.stack([rgb(tmp_path / f"{index}.rgba", images.shape[1:3]) for index in range(8)])
    assert np.abs(found.astype(int) - images).max() <= 1  # another release of the library may round the other way
    assert np.allclose(told["latents"], latents.reshape(2, -1), atol=1e-4)
    assert told["precision"] == precision
    assert (told["same"], told["known"]) == (True, True)
    assert told["parts"] == ["fit", "encoder", "quantizer", "decoder"]
    assert told["spec"]["scales"] == [list(shape) for shape in spec.scale_shapes]
    assert told["spec"]["prefixLengths"] == list(spec.prefix_lengths)
    assert told["first"] == [height * width for height, width in spec.scale_shapes]


def rgb(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(path.read_bytes(), np.uint8).reshape(*shape, 4)[..., :3]


def test_node_reads_what_python_writes(npm_package: Path, sample_bundle: Path, tmp_path: Path) -> None:
    """tokens.npz as `coda encode` packs it, and errors with the way out."""
    with coda_runtime.load(sample_bundle, device="cpu") as tok:
        ids = np.arange(2 * 680, dtype=np.int32).reshape(2, 680)
        write_tokens(tmp_path / "t.npz", ids, ["a.jpg", "Köln/b 日.jpg"], tok)
    shutil.copy(Path(__file__).with_name("node_reads.mjs"), npm_package)
    told = json.loads(
        must(tool("node", "nodejs"), "node_reads.mjs", sample_bundle, tmp_path / "t.npz", folder=npm_package)
    )
    assert told["encoded"] == 1
    assert told["ids"] == ids.tolist()
    assert (told["names"], told["known"]) == (["a.jpg", "Köln/b 日.jpg"], True)
    expected = (
        "TokenError: ids[0] has 3 ids; expected a whole number of scales: 1, 5,",
        "TokenError: ids[0] has 4096; expected whole numbers from 0 to 4095",
        "put a single one in brackets, [ids]",
        "ImageError: the batch is empty",
        "ImageError: images[0] has no data",
        "put it in brackets, [image]",
        "TokenError: it cannot be read: it is no .npz archive",
        "TokenError: it was made with another tokenizer",
        "BundleError: ",
        "BundleError: /nowhere has no manifest.json",
    )
    for found, words in zip(told["errors"], expected, strict=True):
        assert words in found


@pytest.mark.parametrize("file", ["decoder.fp32.onnx", "manifest.json", "SHA256SUMS"])
def test_an_altered_bundle_is_not_loaded(npm_package: Path, sample_bundle: Path, file: str, tmp_path: Path) -> None:
    altered = tmp_path / "bundle"
    shutil.copytree(sample_bundle, altered)
    data = bytearray((altered / file).read_bytes())
    at = data.rindex(b"sample") if file == "manifest.json" else len(data) - 70
    data[at] ^= 1
    (altered / file).write_bytes(bytes(data))
    script = """
import { load } from "coda-runtime";
await load(process.argv[2]).catch((error) => console.log(error.name, error.message));
"""
    (npm_package / "altered.mjs").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [tool("node", "nodejs"), "altered.mjs", str(altered)],
        capture_output=True,
        text=True,
        cwd=npm_package,
        check=True,
    )
    assert done.stdout.startswith("ChecksumError ")
    assert "copy, download or export the bundle again" in done.stdout
