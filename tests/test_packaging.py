"""The two wheels and their source archives: what is in them, what they ask for, and that they agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import coda_runtime
from coda_runtime.requirements import DEPLOY_EXTRAS, ENGINE_EXTRAS, OWN, RANGES, RUNTIME_EXTRAS

ROOT = Path(__file__).parents[1]


def project(folder: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


class Wheel:
    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.names = set(archive.namelist())
            info = next(name.split("/")[0] for name in self.names if ".dist-info/" in name)
            self.licence = archive.read(f"{info}/licenses/LICENSE").decode()
            self.entry_points = archive.read(f"{info}/entry_points.txt").decode()
            self.metadata: Message = Parser().parsestr(archive.read(f"{info}/METADATA").decode())

    @property
    def packages(self) -> set[str]:
        return {name.split("/")[0] for name in self.names if ".dist-info/" not in name}

    @property
    def hard_dependencies(self) -> list[str]:
        return [line for line in self.metadata.get_all("Requires-Dist", []) if "extra ==" not in line]


def build(folder: str, out: Path) -> Wheel:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--no-build-isolation", "-w", out, ROOT / folder], check=True)
    (path,) = out.glob("*.whl")
    return Wheel(path)


def build_archive(folder: str, out: Path) -> Path:
    """A source archive as an installer sees it: unpacked."""
    # hatchling is the one of this environment, as in `build`.
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "sdist", "-d", out]
    subprocess.run(command, cwd=ROOT / folder, check=True, capture_output=True)
    (path,) = out.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(out, filter="data")
    return out / path.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return build(".", tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return build("runtime", tmp_path_factory.mktemp("runtime"))


def source_files(package: Path) -> set[str]:
    """All that a wheel must carry of a package: modules and data, whatever their kind."""
    return {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_deploy_carries_both_packages_whole(deploy: Wheel) -> None:
    assert deploy.packages == {"coda_deploy", "coda_export"}
    assert {"coda_deploy/py.typed", "coda_export/py.typed"} <= deploy.names
    assert source_files(ROOT / "coda_deploy") | source_files(ROOT / "export" / "coda_export") <= deploy.names


def test_runtime_carries_its_package_whole(runtime: Wheel) -> None:
    assert runtime.packages == {"coda_runtime"}
    assert "coda_runtime/py.typed" in runtime.names
    assert source_files(ROOT / "runtime" / "coda_runtime") <= runtime.names


def test_runtime_carries_the_javascript_of_its_page(runtime: Wheel) -> None:
    inside = {name for name in runtime.names if name.startswith("coda_runtime/site/js/")}
    sources = {f"coda_runtime/site/js/src/{path.name}" for path in (ROOT / "runtime" / "js" / "src").iterdir()}
    assert inside == {"coda_runtime/site/js/package.json", *sources}


@pytest.mark.parametrize("folder", [".", "runtime"])
def test_a_wheel_of_the_source_archive_is_the_same(folder: str, deploy: Wheel, runtime: Wheel, tmp_path: Path) -> None:
    unpacked = build_archive(folder, tmp_path / "archive")
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        assert (unpacked / name).read_bytes() == (ROOT / folder / name).read_bytes()
    again, direct = build(str(unpacked), tmp_path / "wheel"), {".": deploy, "runtime": runtime}[folder]
    assert again.names == direct.names
    assert again.metadata.as_string() == direct.metadata.as_string()


@pytest.mark.parametrize("folder", [".", "runtime"])
def test_classifiers_and_the_python_that_is_asked_for_agree(folder: str) -> None:
    manifest = project(folder)
    head = "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(head)) for line in manifest["classifiers"] if line.startswith(head)]
    assert manifest["requires-python"] == f">=3.{min(minors)}"
    assert minors == list(range(min(minors), max(minors) + 1))
    table = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert all(f"3.{minor}" in table for minor in minors)


def test_runtime_needs_numpy_only(runtime: Wheel) -> None:
    assert [line.split(">")[0] for line in runtime.hard_dependencies] == ["numpy"]


def test_deploy_leaves_the_engine_library_to_the_user(deploy: Wheel) -> None:
    assert not [line for line in deploy.hard_dependencies if "onnxruntime" in line or "tensorrt" in line]


def test_versions_agree(deploy: Wheel, runtime: Wheel) -> None:
    version = deploy.metadata["Version"]
    assert runtime.metadata["Version"] == coda_runtime.__version__ == version
    pins = [line for line in deploy.metadata.get_all("Requires-Dist", []) if line.startswith("coda-runtime")]
    assert pins
    assert all(f"=={version}" in line for line in pins)
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_is_inside(deploy: Wheel, runtime: Wheel) -> None:
    assert deploy.licence == runtime.licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert deploy.metadata["License-Expression"] == runtime.metadata["License-Expression"] == "Apache-2.0"


def test_entry_points(deploy: Wheel, runtime: Wheel) -> None:
    assert "coda = coda_runtime.cli:main" in runtime.entry_points
    assert "[coda.commands]" in deploy.entry_points
    assert "[coda.verify]" in deploy.entry_points
    for group in project(".")["entry-points"].values():
        for target in group.values():
            module = target.partition(":")[0].replace(".", "/")
            assert f"{module}.py" in deploy.names or f"{module}/__init__.py" in deploy.names


def requirements(lines: list[str]) -> dict[str, str]:
    """Name, with extras, -> versions."""
    found = {}
    for line in lines:
        parsed = Requirement(line)
        extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
        found[f"{parsed.name}{extras}"] = str(parsed.specifier)
    return found


@pytest.mark.parametrize(
    ("folder", "extras"), [("runtime", RUNTIME_EXTRAS), (".", DEPLOY_EXTRAS)], ids=["runtime", "deploy"]
)
def test_messages_name_what_the_extras_bring(folder: str, extras: dict[str, tuple[str, ...]]) -> None:
    manifest = project(folder)
    theirs = {name: requirements(lines) for name, lines in manifest["optional-dependencies"].items()}
    if folder == ".":
        version = manifest["version"]
        for name in ENGINE_EXTRAS:
            assert theirs.pop(name) == {f"coda-runtime[{name}]": f"=={version}"}
        del theirs["dev"], theirs["docs"]
    assert {name: set(packages) for name, packages in extras.items()} == {name: set(v) for name, v in theirs.items()}
    for packages in [*theirs.values(), requirements(manifest["dependencies"])]:
        for package, versions in packages.items():
            if package.partition("[")[0] not in OWN:
                assert SpecifierSet(RANGES[package]) == SpecifierSet(versions), package


def test_no_message_names_a_package_that_no_index_has() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("coda_deploy", "export", "runtime", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".toml") and path.name != "pyproject.toml"
        # A message that is folded over several literals is one line to its reader.
        for number, line in enumerate(
            re.sub(r"[\"']\s*\n\s*f?[\"']", "", path.read_text(encoding="utf-8")).splitlines(), 1
        )
        if re.search(r"pip install\b.*\bcoda-(runtime|deploy)\b", line)
    ]
    assert lines == []


def test_constraints_pin_what_the_manifests_name() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    named = set()
    for folder in (".", "runtime"):
        manifest = project(folder)
        extras = manifest["optional-dependencies"]
        lists = [manifest["dependencies"], *extras.values()]
        named |= {line.split("[")[0].split(">")[0].split("=")[0].replace("_", "-") for group in lists for line in group}
    # Triton: PyPI's PyTorch asks for another one, so the Makefile has its version.
    assert named - pinned == {"coda-deploy", "coda-runtime", "triton"}
    assert "torch==2.13.0" in lines


def test_the_page_that_an_index_shows_has_no_links_into_the_checkout() -> None:
    text = (ROOT / "runtime" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == []


def test_the_tables_of_extras_are_complete() -> None:
    pages = {"docs/installation.md": {**RUNTIME_EXTRAS, **DEPLOY_EXTRAS}, "runtime/README.md": RUNTIME_EXTRAS}
    for page, extras in pages.items():
        listed = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert sorted(listed) == sorted(extras), page
