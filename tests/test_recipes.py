"""CONTRIBUTING's recipes, followed in a copy of the packages: what is added works, by the files that they name."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runtime import tiny

pytest.importorskip("torch", reason="the exporter needs it, and the copy is of all packages")

ROOT = Path(__file__).parents[1]
COPIED = ("coda_deploy", "export", "runtime", "tests", "docs", "pyproject.toml", "constraints.txt")
TEXT = {".py", ".toml", ".txt", ".md"}
RUNTIME = "runtime/coda_runtime"
PRECISIONS, FOLDING = f"{RUNTIME}/format/precision.py", "export/coda_export/folding/precision.py"
BASE, REGISTRY = f"{RUNTIME}/backends/base.py", f"{RUNTIME}/backends/registry.py"
REQUIREMENTS = f"{RUNTIME}/requirements.py"
FOLDER = f"{RUNTIME}/backends/reference"
FAMILIES = "coda_deploy/families"
IMPORT = "from coda_deploy.families.shuffle_vae import ShuffleFamily\n"

BACKEND = '''
"""ONNX files on the standard's own evaluator, in NumPy: slow, for who looks for the cause of a difference."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CodaError, MissingDependencyError
from ...format.bundle import Bundle
from ...format.manifest import Artifact
from ...requirements import absent
from ..base import Backend, Batch, LoadOptions


class ReferenceBackend(Backend):
    """Loads `.onnx` files in float32."""

    name = "reference"
    formats: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] | None = ("fp32",)

    def missing(self) -> MissingDependencyError | None:
        """Return the error that names onnx where it is not installed."""
        if not absent("reference"):
            return None
        return MissingDependencyError("the backend reference needs onnx", extra="reference")

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return what is missing: every file runs."""
        return self.missing()

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> ReferenceSession:
        """Load one file. Raises MissingDependencyError."""
        if (missing := self.missing()) is not None:
            raise missing
        return ReferenceSession(str(bundle.path(artifact)))


class ReferenceSession:
    """One evaluator."""

    device = "cpu"
    batch: Batch | None = None

    def __init__(self, path: str) -> None:
        self._evaluator: Any = import_module("onnx.reference").ReferenceEvaluator(path)

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph."""
        return np.asarray(self._evaluator.run(None, {self._evaluator.input_names[0]: batch})[0])

    def close(self) -> None:
        """Drop the evaluator."""
        self._evaluator = None
'''
NOTING = '''
class NotingSession(ReferenceSession):
    """Notes the shape of each run in a file."""

    def __init__(self, path: str, note: str) -> None:
        super().__init__(path)
        self._note = note

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run [B, ...] through the graph."""
        with open(self._note, "a", encoding="utf-8") as file:
            file.write(f"{batch.dtype} {list(batch.shape)}\\n")
        return super().run(batch)
'''


FAMILY = '''
"""ShuffleVae: one convolution each way, and pixels for channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from coda_deploy.families.base import CLASS, Family, Settings, Shape, Statistics
from coda_deploy.families.settings import whole_number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coda_export.folding.vae import VaeParts


class ShuffleFamily(Family):
    """Its convolutions take scale and shift."""

    class_name = "ShuffleVae"
    models = "none"
    lora_targets = ("conv",)
    folds = "scale and shift"

    def shape(self, settings: Settings) -> Shape:
        """Read both numbers."""
        return Shape(whole_number(settings, "channels"), whole_number(settings, "patch"))

    def image_channels(self, settings: Settings) -> tuple[object, object]:
        """Return 3 and 3."""
        return 3, 3

    def make(self, settings: Settings) -> nn.Module:
        """Join two modules."""
        from torch import nn

        channels, patch = int(settings["channels"]), int(settings["patch"])

        class ShuffleVae(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = nn.Sequential()
                self.encoder.add_module("shuffle", nn.PixelUnshuffle(patch))
                self.encoder.add_module("conv", nn.Conv2d(3 * patch**2, channels, 3, padding=1))
                self.decoder = nn.Sequential()
                self.decoder.add_module("conv", nn.Conv2d(channels, 3 * patch**2, 3, padding=1))
                self.decoder.add_module("shuffle", nn.PixelShuffle(patch))

        return ShuffleVae()

    def settings(self, vae: nn.Module) -> dict[str, Any]:
        """Read them off the modules."""
        encoder = cast(Any, vae).encoder
        patch = encoder.shuffle.downscale_factor
        return {CLASS: self.class_name, "channels": encoder.conv.out_channels, "patch": patch}

    def statistics(self, vae: nn.Module) -> Statistics:
        """Scale each channel by its number."""
        return Statistics(tuple(0.5 + 0.1 * channel for channel in range(self.shape(self.settings(vae)).channels)), 0.3)

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Encode."""
        return cast("Tensor", cast(Any, vae).encoder(pixels))

    def decode(self, vae: nn.Module, latent: Tensor) -> Tensor:
        """Decode."""
        return cast("Tensor", cast(Any, vae).decoder(latent))

    def parts(self, vae: nn.Module) -> VaeParts:
        """Name both convolutions."""
        from coda_export.folding.vae import VaeParts

        return VaeParts(cast(Any, vae).encoder, cast(Any, vae).decoder, "conv", "conv")
'''
WITH_FAMILY = """
import sys
import torch
from coda_deploy import CodaTokenizer, LoraConfig
from coda_deploy.families import FAMILIES
from coda_deploy.folding import fold_tokenizer
from tests.tiny_tokenizers import enliven, images

vae = FAMILIES["ShuffleVae"].make({"channels": 4, "patch": 4})
tok = CodaTokenizer.from_vae(vae, image_size=32, vocab_size=16, scales=(1, 2, 4, 8), lora=LoraConfig(2))
enliven(tok)
tok.eval().save_pretrained(sys.argv[1])
tok = CodaTokenizer.from_pretrained(sys.argv[1])
folded = fold_tokenizer(tok)
with torch.no_grad():
    torch.testing.assert_close(folded.encoder(images()), tok.encode_latent(images()), atol=1e-4, rtol=1e-4)
    made = folded.decoder(tok.encode(images())).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(made, tok.decode(tok.encode(images())).clamp(-1, 1), atol=1e-2, rtol=0)
print(tok.config.latent_scale, sum("lora_A" in name for name, _ in tok.trainable()), tok.spec.num_tokens)
"""


class Copy:
    """The packages, their tests and pages in a folder of their own; `touched` tells how they differ from ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        left_out = shutil.ignore_patterns("__pycache__", "sample", ".*")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=left_out)
            else:
                shutil.copy(source, folder / name)
        self._before = self._texts()

    def insert(self, file: str, before: str, text: str) -> None:
        """Put lines before what stands at one place of a file."""
        self.replace(file, before, text + before)

    def replace(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        found = path.read_text(encoding="utf-8")
        assert found.count(old) == 1, f"{file} has {old!r} {found.count(old)} times"
        path.write_text(found.replace(old, new), encoding="utf-8")

    def write(self, file: str, text: str) -> None:
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.lstrip("\n"), encoding="utf-8")

    def line(self, file: str, start: str) -> str:
        """The one line of a file that begins so."""
        (found,) = (
            line
            for line in (self.folder / file).read_text(encoding="utf-8").splitlines(keepends=True)
            if line.startswith(start)
        )
        return found

    def commit(self) -> None:
        """From now on `touched` tells what differs from this state."""
        self._before = self._texts()

    def touched(self) -> tuple[set[str], dict[str, int]]:
        """(folders that are new, for each other file the number of its lines that are new or changed)."""
        folders, lines = set(), {}
        for name, text in self._texts().items():
            if text == self._before.get(name):
                continue
            folder = name.rpartition("/")[0]
            if folder and not any(old.startswith(f"{folder}/") for old in self._before):
                folders.add(folder)
                continue
            changes = difflib.ndiff(self._before.get(name, "").splitlines(), text.splitlines())
            lines[name] = sum(change.startswith("+ ") for change in changes)
        return folders, lines

    def python(self, *words: str | Path, fails: bool = False) -> str:
        """What the copy's Python prints; of a call that `fails`, its errors too."""
        path = os.pathsep.join(
            [*(str(self.folder / name) for name in ("runtime", "export", "")), os.environ.get("PYTHONPATH", "")]
        )
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == fails, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr if fails else done.stdout

    def coda(self, *words: str | Path) -> str:
        return self.python("-m", "coda_runtime.cli", *words)

    def _texts(self) -> dict[str, str]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_text(encoding="utf-8")
            for name in COPIED
            for path in [self.folder / name, *(self.folder / name).rglob("*")]
            if path.suffix in TEXT and path.is_file()
        }


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.make_bundle(tmp_path / "bundle")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(tiny.photos(1)[0]).save(path)
    return path


def files_named(recipe: str) -> set[str]:
    """The files that the recipe of this heading links."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {recipe}\n(.*?)^##", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r"\]\(([^)#]+)\)", found[1]))


def ids(path: Path) -> Any:
    with np.load(path) as found:
        return found["ids"]


def add_precision(copy: Copy) -> None:
    entry = """        Precision(
            "fp16x",
            "float16",
            itemsize=2,
            threshold=Threshold(0.0, 20.0),
            tensorrt_type="HALF",
            tensorrt_pattern="fp16x",
        ),
"""
    copy.insert(PRECISIONS, '    )\n}\n"""By name.', entry)
    copy.insert(FOLDING, "\nNOTHING_KEPT = ", 'DTYPES["fp16x"] = torch.float16\n')


def add_backend(copy: Copy) -> None:
    copy.write(f"{FOLDER}/__init__.py", '"""The backend reference: ONNX\'s own evaluator."""\n')
    copy.write(f"{FOLDER}/backend.py", BACKEND)
    entry = '    "reference": _Entry(_in(".reference.backend", "ReferenceBackend"), ("onnx",), automatic=False),\n'
    copy.insert(REGISTRY, "}\n\n\ndef register(", entry)
    copy.insert(REQUIREMENTS, '}\n"""What runs bundles,', '    "reference": ("onnx",),\n')


@pytest.mark.slow
def test_a_precision(copy: Copy, tiny_folder: Path, photo: Path, tmp_path: Path) -> None:
    import onnx

    add_precision(copy)
    folders, lines = copy.touched()
    assert (folders, lines.keys()) == (set(), {PRECISIONS, FOLDING})
    assert lines.keys() <= files_named("A precision")

    out, tokens = tmp_path / "bundle", tmp_path / "tokens.npz"
    manifest = json.loads(copy.coda("export", tiny_folder, "--out", out, "--precision", "fp16x", "--json"))
    assert (manifest["default_precision"], manifest["provenance"]["floors"]["fp16x"]["min_psnr"]) == ("fp16x", 20.0)
    for part, number in (("encoder", "step_agreement"), ("decoder", "psnr")):
        (artifact,) = (entry for entry in manifest["artifacts"] if entry["part"] == part)
        assert (artifact["precision"], artifact["file"]) == ("fp16x", f"{part}.fp16x.onnx")
        assert number in artifact["parity"]["onnxruntime:cpu"]
        weights = onnx.load(out / artifact["file"]).graph.initializer
        assert sum(weight.data_type == onnx.TensorProto.FLOAT16 for weight in weights) > 10
    copy.coda("encode", out, photo, "--out", tokens, "--precision", "fp16x")
    assert ids(tokens).shape == (1, manifest["spec"]["num_tokens"])
    for command in (["encode"], ["build"], ["bench", "run"], ["export"]):
        assert "fp16x" in copy.coda(*command, "--help"), command
    # What is asked of every precision, and that no other file spells this one.
    checks = ("runtime/format/test_precision.py", "export/folding/test_precision_table.py", "test_facts.py")
    copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in checks))


def test_a_backend(copy: Copy, bundle: Path, photo: Path, tmp_path: Path) -> None:
    add_backend(copy)
    assert copy.touched() == ({FOLDER}, {REGISTRY: 1, REQUIREMENTS: 1})

    copy.coda("encode", bundle, photo, "--out", tmp_path / "a.npz")
    copy.coda("encode", bundle, photo, "--out", tmp_path / "b.npz", "--backend", "reference")
    np.testing.assert_array_equal(ids(tmp_path / "a.npz"), ids(tmp_path / "b.npz"))
    code = (
        "import sys, coda_runtime\n"
        "for backend in ('auto', 'reference'):\n"
        "    with coda_runtime.load(sys.argv[1], backend=backend) as tok:\n"
        "        print(*(artifact.backend for artifact in tok.artifacts))\n"
    )
    assert copy.python("-c", code, bundle).splitlines() == [
        "onnxruntime onnxruntime onnxruntime",
        "reference reference reference",
    ]
    absent = (
        "import sys, coda_runtime, coda_runtime.requirements as table\n"
        "table.installed_version = lambda name: None\n"
        "coda_runtime.load(sys.argv[1], backend='reference')"
    )
    assert 'the backend reference needs onnx; install it: pip install "onnx>=1.18"' in copy.python(
        "-c", absent, bundle, fails=True
    )


def test_what_else_is_asked_for_of_a_backend(copy: Copy) -> None:
    """The extra for pip, its rows in two pages, and the folder's place in the contract."""
    add_backend(copy)
    copy.commit()
    lint = ["-c", "from importlinter.cli import lint_imports_command as f; f()", "--no-cache", "--contract", "backends"]
    wanted = "messages_name_what or constraints_pin or tables_of_extras"
    packaging = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_packaging.py", "-k", wanted]
    assert "coda_runtime.backends.reference" in copy.python(*lint, fails=True)
    assert "3 failed, 1 passed" in copy.python(*packaging, fails=True)

    manifests = ("pyproject.toml", "runtime/pyproject.toml")
    for manifest in manifests:
        line = copy.line(manifest, "cuda = [")
        own = line.replace("cuda", "reference") if manifest == "pyproject.toml" else 'reference = ["onnx>=1.18"]\n'
        copy.insert(manifest, line, own)
    copy.replace("pyproject.toml", " | tensorrt | ptx", " | tensorrt | ptx | reference")
    pages = ("docs/installation.md", "runtime/README.md")
    for page in pages:
        line = copy.line(page, "| `cuda` |")
        copy.insert(page, line, line.replace("`cuda`", "`reference`"))
    copy.python(*lint)
    copy.python(*packaging)
    folders, lines = copy.touched()
    assert (folders, lines) == (set(), {"pyproject.toml": 2, "runtime/pyproject.toml": 1} | dict.fromkeys(pages, 1))
    assert {*lines, REGISTRY, REQUIREMENTS} <= files_named("A backend")


def test_a_load_argument(copy: Copy, bundle: Path, photo: Path, tmp_path: Path) -> None:
    add_backend(copy)
    backend = f"{FOLDER}/backend.py"
    copy.replace(
        backend,
        "ReferenceSession(str(bundle.path(artifact)))",
        "NotingSession(str(bundle.path(artifact)), options.note)",
    )
    copy.write(backend, (copy.folder / backend).read_text(encoding="utf-8") + NOTING)
    copy.commit()
    field = """    note: str = field(default="", metadata={"help": "File to note each run in."})
    \"\"\"The file in which each run is noted.\"\"\"
"""
    copy.insert(BASE, "\n    def __post_init__(self)", field)
    copy.replace(BASE, "    allow_host_code: bool\n", "    allow_host_code: bool\n    note: str\n")
    assert copy.touched() == (set(), {BASE: 3})
    assert {BASE} <= files_named("A load argument")

    note = tmp_path / "note.txt"
    copy.coda("encode", bundle, photo, "--out", tmp_path / "a.npz", "--backend", "reference", "--note", note)
    runs = ["uint8 [1, 32, 32, 3]", "float32 [1, 4, 4, 4]"]
    assert note.read_text(encoding="utf-8").splitlines() == runs
    code = (
        "import sys, coda_runtime\n"
        "with coda_runtime.load(sys.argv[1], backend='reference', note=sys.argv[3]) as tok:\n"
        "    tok.encode([sys.argv[2]])\n"
    )
    copy.python("-c", code, bundle, photo, note)
    assert note.read_text(encoding="utf-8").splitlines() == [*runs, *runs]
    # Every command that loads a bundle has the option, and type checkers know the argument.
    copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/runtime/backends/test_options.py")


def add_family(copy: Copy) -> None:
    copy.write(f"{FAMILIES}/shuffle_vae.py", FAMILY)
    registry = f"{FAMILIES}/registry.py"
    copy.insert(registry, "from coda_deploy.families.user_module import PROTOCOL", IMPORT)
    copy.insert(registry, "        USER_MODULE,\n    )\n}", "        ShuffleFamily(),\n")


@pytest.mark.slow
def test_a_vae_family(copy: Copy, tmp_path: Path) -> None:
    add_family(copy)
    folders, lines = copy.touched()
    assert (folders, lines.keys()) == (set(), {f"{FAMILIES}/shuffle_vae.py", f"{FAMILIES}/registry.py"})
    assert lines[f"{FAMILIES}/registry.py"] == 2, "its import, and its line"
    named = files_named("A VAE family")
    assert {f"{FAMILIES}/registry.py", f"{FAMILIES}/base.py", "tests/tiny_families.py", "docs/training.md"} <= named
    told = copy.python("-c", WITH_FAMILY, tmp_path / "tokenizer").splitlines()[-1]
    assert told == "(0.5, 0.6, 0.7, 0.8) 2 85"
    # What else is asked for: a small one in the tests of all families, and the table's row.
    tests = ("tests/docs/test_families.py", "tests/deploy/families/test_families.py")
    wanted = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "has_a_form or has_the_registry"]
    assert "2 failed" in copy.python(*wanted, fails=True)


@pytest.mark.slow
def test_a_vae_family_is_exported(copy: Copy, photo: Path, tmp_path: Path) -> None:
    add_family(copy)
    copy.python("-c", WITH_FAMILY, tmp_path / "tokenizer")
    manifest = json.loads(copy.coda("export", tmp_path / "tokenizer", "--out", tmp_path / "bundle", "--json"))
    assert manifest["provenance"]["vae"]["class"] == "ShuffleVae"
    copy.coda("encode", tmp_path / "bundle", photo, "--out", tmp_path / "tokens.npz")
    assert ids(tmp_path / "tokens.npz").shape == (1, 85)
    assert "ShuffleVae from a source that is not recorded" in copy.coda("inspect", tmp_path / "bundle")
