"""The folder of `coda site`: what is in it, what it refuses, and that it is written at once or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from coda_runtime.cli.app import cli
from coda_runtime.errors import ChecksumError, InputError, OutputError
from coda_runtime.format.bundle import Bundle, describe_file, seal
from coda_runtime.format.manifest import Artifact
from coda_runtime.site import ENGINE_VERSION, SITE_FILE, write_site
from coda_runtime.site.engine import ENGINES, integrity, vendored
from coda_runtime.site.png import png_bytes
from tests.runtime import tiny

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "runtime" / "coda_runtime" / "site" / "page"
JS = ROOT / "runtime" / "js"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_bundle(tmp_path_factory.mktemp("site") / "bundle")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Ids(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href"):
                self.addresses.append(str(value))
            if key == "for":
                self.labels.append(str(value))
            if key == "style" or key.startswith("on"):
                self.inline.append(key)


def test_all_that_the_page_names_is_there(bundle: Path, tmp_path: Path) -> None:
    site = write_site(Bundle.open(bundle), tmp_path / "page")
    found = files_of(tmp_path / "page")
    assert {name: len(data) for name, data in found.items()} == site.files
    page = Ids(found["index.html"].decode())
    assert set(page.addresses) <= set(found)
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.labels) <= set(page.ids)
    assert page.inline == []  # the content security policy would not let it in
    script = found["app.js"].decode()
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(page.ids)
    for name, data in found.items():
        if name.endswith(".js"):
            folder = Path(name).parent
            for imported in re.findall(r'(?:from|import\() ?"(\.[^"]+)"', data.decode()):
                if not imported.endswith(".d.ts"):
                    assert (folder / imported).as_posix() in found, (name, imported)


def test_the_bundle_is_copied_as_it_is(bundle: Path, tmp_path: Path) -> None:
    write_site(Bundle.open(bundle), tmp_path / "page")
    found = files_of(tmp_path / "page" / "bundle")
    assert all(data == (bundle / name).read_bytes() for name, data in found.items())
    manifest = json.loads(found["manifest.json"])
    wanted = {a["file"] for a in manifest["artifacts"] if a["part"] in ("encoder", "quantizer", "decoder", "codebook")}
    assert set(found) - {"manifest.json", "SHA256SUMS"} <= wanted
    described = json.loads((tmp_path / "page" / SITE_FILE).read_bytes())
    assert described["precisions"] == [manifest["default_precision"]]
    assert described["engine"]["base"].endswith(f"onnxruntime-web@{ENGINE_VERSION}/dist/")
    assert described["engine"]["base"].startswith("https://")


def test_the_service_worker_knows_the_page_and_its_version(bundle: Path, tmp_path: Path) -> None:
    def told(out: Path) -> dict[str, Any]:
        first = (out / "sw.js").read_text(encoding="utf-8").split("\n")[0]
        value: dict[str, Any] = json.loads(first.removeprefix("const PAGE = ").removesuffix(";"))
        return value

    write_site(Bundle.open(bundle), tmp_path / "a")
    write_site(Bundle.open(bundle), tmp_path / "b")
    assert told(tmp_path / "a") == told(tmp_path / "b")
    assert set(told(tmp_path / "a")["shell"]) <= {"./", *files_of(tmp_path / "a")}
    other = tiny.make_bundle(tmp_path / "bundle")
    seal(other, dataclasses.replace(Bundle.open(other).manifest, license="MIT"))
    write_site(Bundle.open(other), tmp_path / "c")
    assert set(told(tmp_path / "c")["files"]) == {"./", *files_of(tmp_path / "c")}
    assert told(tmp_path / "c")["version"] != told(tmp_path / "a")["version"]


def test_what_a_page_could_not_run_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no value table"):
        write_site(Bundle.open(tiny.make_minimal_bundle(tmp_path / "bundle")), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_examples_that_are_no_images(tmp_path: Path) -> None:
    folder = tiny.make_bundle(tmp_path / "bundle")
    np.savez(folder / "parity.fp32.npz", images=np.zeros((2, 16), np.float32))
    artifact = Artifact("parity", "npz", "fp32", "parity.fp32.npz", *describe_file(folder, "parity.fp32.npz"))
    manifest = Bundle.open(folder).manifest
    seal(folder, dataclasses.replace(manifest, artifacts=(*manifest.artifacts, artifact)))
    with pytest.raises(InputError, match=r"images float32 \[2, 16\], expected uint8 \[N,H,W,3\]"):
        write_site(Bundle.open(folder), tmp_path / "page")


def test_what_a_visitor_loads_first_has_the_quantizer(tmp_path: Path) -> None:
    """It is fp32 in every precision, also where fp32 is a second choice of the page."""
    folder = tiny.make_bundle(tmp_path / "bundle")
    manifest = Bundle.open(folder).manifest
    artifacts = list(manifest.artifacts)
    for artifact in manifest.artifacts:
        if artifact.part in ("encoder", "decoder"):
            file = artifact.file.replace("fp32", "int8")
            (folder / file).write_bytes((folder / artifact.file).read_bytes())
            artifacts.append(dataclasses.replace(artifact, file=file, precision="int8"))
    seal(folder, dataclasses.replace(manifest, artifacts=tuple(artifacts)))
    alone = write_site(Bundle.open(folder), tmp_path / "alone", precisions=["int8"])
    both = write_site(Bundle.open(folder), tmp_path / "both", precisions=["int8", "fp32"])
    assert abs(both.download - alone.download) < 200  # site.json and sw.js name more files


def test_a_page_is_replaced_with_force_alone(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    write_site(Bundle.open(bundle), out)
    before = files_of(out)
    (out / "left.txt").write_text("of an older page")
    with pytest.raises(OutputError, match="--force"):
        write_site(Bundle.open(bundle), out)
    assert (out / "left.txt").is_file()
    write_site(Bundle.open(bundle), out, force=True)
    assert files_of(out) == before


def test_a_folder_of_something_else_stays(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="no page of `coda site`"):
        write_site(Bundle.open(bundle), tmp_path, force=True)
    assert files_of(tmp_path) == {"mine": b"mine"}


def test_an_altered_file_leaves_nothing(tmp_path: Path) -> None:
    altered = tiny.make_bundle(tmp_path / "bundle")
    path = next(altered.glob("decoder*.onnx"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ChecksumError):
        write_site(Bundle.open(altered), tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_precision_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in int8, only"):
        write_site(Bundle.open(bundle), tmp_path / "page", precisions=["int8"])
    assert not (tmp_path / "page").exists()


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    done = CliRunner().invoke(cli, ["site", str(bundle), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert f" -m http.server --bind 127.0.0.1 --directory {out} 8000" in done.stdout
    again = CliRunner().invoke(cli, ["site", str(bundle), "--out", str(out)])
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    done = CliRunner().invoke(cli, ["site", str(bundle), "--out", str(out), "--force", "--json"])
    told = json.loads(done.stdout)
    assert told["bytes"] == sum(map(len, files_of(out).values()))
    assert told["num_files"] == len(files_of(out))


@pytest.mark.parametrize(
    ("version", "altered", "expected"),
    [
        (None, False, "has no onnxruntime-web"),
        ("1.29.0", False, "is version 1.29.0"),
        (ENGINE_VERSION, True, "is altered"),
        (ENGINE_VERSION, False, "cannot be read"),
    ],
    ids=["absent", "version", "altered", "missing"],
)
def test_what_is_not_the_engine(tmp_path: Path, version: str | None, altered: bool, expected: str) -> None:
    if version is not None:
        dist = tmp_path / "onnxruntime-web" / "dist"
        dist.mkdir(parents=True)
        (dist.parent / "package.json").write_text(json.dumps({"version": version}))
        if altered:
            for file in (file for files in ENGINES.values() for file in files):
                (dist / file.name).write_bytes(b"another program")
    with pytest.raises(InputError, match=expected) as caught:
        dict(vendored(tmp_path))
    assert f"npm install --ignore-scripts onnxruntime-web@{ENGINE_VERSION}" in str(caught.value)


def test_the_engine_is_the_one_that_the_package_pins() -> None:
    package = json.loads((JS / "package.json").read_bytes())
    lock = json.loads((JS / "package-lock.json").read_bytes())
    for name in ("onnxruntime-web", "onnxruntime-node"):
        assert package["peerDependencies"][name] == ENGINE_VERSION
        assert package["devDependencies"][name] == ENGINE_VERSION
        assert lock["packages"][f"node_modules/{name}"]["version"] == ENGINE_VERSION
    for source in (JS / "src").glob("*.js"):
        assert set(re.findall(r"onnxruntime-\w+@([\d.]+)", source.read_text(encoding="utf-8"))) <= {ENGINE_VERSION}


def test_the_package_has_the_version_of_the_wheels() -> None:
    import coda_runtime

    assert json.loads((JS / "package.json").read_bytes())["version"] == coda_runtime.__version__
    assert (JS / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_integrity_is_what_browsers_check() -> None:
    import base64

    assert integrity(b"x") == "sha384-" + base64.b64encode(hashlib.sha384(b"x").digest()).decode()


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (64, 48)], ids=str)
def test_png(shape: tuple[int, int]) -> None:
    pixels = tiny.photos(1, *shape)[0]
    with Image.open(io.BytesIO(png_bytes(pixels))) as opened:
        assert opened.mode == "RGB"
        assert (np.asarray(opened) == pixels).all()
