from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import coda_runtime
from coda_runtime.cli import app
from coda_runtime.requirements import how_to_install

Bare = Callable[..., Callable[..., Any]]
OWN = ("bench", "build", "decode", "doctor", "encode", "inspect", "reconstruct", "site", "verify")
RUNTIME = ("numpy", "onnxruntime", "flatbuffers", "google", "PIL", "pillow", "click", "rich", "pygments", "packaging")


def test_help_lists_every_command_and_imports_no_torch(bare: Bare) -> None:
    run = bare("numpy", "click", "rich")
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for name in OWN:
        assert f"  {name} " in done.stdout
    for name in ("demo", "eval", "export", "import-official", "train", "train-vae", "weights"):
        assert f"  {name} " in done.stdout
    assert " ".join(done.stdout.split()).count("(needs coda-deploy)") == 7


@pytest.mark.parametrize("name", OWN)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(app.cli, [name, "--help"])
    assert done.exit_code == 0
    assert f"Example:\n    coda {name} " in done.stdout or f"Example:\n    coda {name}\n" in done.stdout
    assert "--debug" in done.stdout
    assert ("--json" in done.stdout) == (name != "bench")  # whose own commands have it


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app.cli, ["--version"]).stdout == f"coda-runtime {coda_runtime.__version__}\n"


def test_commands_of_coda_deploy_give_the_pip_line_where_it_is_missing(bare: Bare) -> None:
    run = bare("numpy", "click", "rich")
    for arguments in (["demo"], ["export", "--help"], ["import-official", "x", "--variant", "y"], ["--debug", "demo"]):
        done = run(*arguments)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "comes with coda-deploy, which is not installed" in last
        assert last.endswith(how_to_install("coda-deploy"))
        assert ("Traceback" in done.stderr) == ("--debug" in arguments)


def test_without_click_the_pip_line_is_given(bare: Bare) -> None:
    for packages in (("numpy",), ("numpy", "click"), ("numpy", "rich")):
        done = bare(*packages)("inspect", "bundle")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        absent = [name for name in ("click", "rich") if name not in packages]
        assert done.stderr.endswith(f"; {how_to_install(*absent)}\n")


def test_the_whole_command_line_works_without_pytorch(bare: Bare, sealed: Path, photos: Path, tmp_path: Path) -> None:
    run = bare(*RUNTIME, "markdown_it", "mdurl")
    assert run(code="import torch").returncode == 1
    tokens = tmp_path / "tokens.npz"
    for arguments in (
        ["inspect", sealed],
        ["verify", sealed],
        ["doctor"],
        ["encode", sealed, photos, "--out", tokens],
        ["decode", sealed, tokens, "--out", tmp_path / "decoded"],
        ["reconstruct", sealed, photos, "--out", tmp_path / "again"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == 5


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_a_name_that_the_terminal_cannot_write(encoding: str, sealed: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    shutil.copy(photos / "0.png", folder / "写真🙂é.png")
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (
        ["reconstruct", sealed, folder, "--out", tmp_path / "again"],
        ["encode", sealed, folder, "--out", tmp_path / "写🙂.npz"],
        ["decode", sealed, tmp_path / "写🙂.npz", "--out", tmp_path / "decoded🙂"],
        ["inspect", sealed],
    ):
        command = [sys.executable, "-m", "coda_runtime.cli", *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        assert arguments[0] == "inspect" or b"\\U0001f642" in done.stdout
    assert [path.name for path in (tmp_path / "decoded🙂").iterdir()] == ["写真🙂é.png"]


def test_a_name_that_is_no_text_at_all(sealed: Path, photos: Path, tmp_path: Path) -> None:
    """Also where the terminal writes UTF-8: a path may hold any bytes."""
    out = os.fsencode(tmp_path) + b"/\xff.npz"
    command = [sys.executable, "-m", "coda_runtime.cli", "encode", str(sealed), str(photos / "0.png"), "--out", out]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\\udcff.npz\n")
    assert Path(os.fsdecode(out)).exists()


def test_parity_without_coda_deploy_gives_the_pip_line(bare: Bare, sealed: Path, tmp_path: Path) -> None:
    done = bare("numpy", "click", "rich")("verify", sealed, "--tokenizer", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(f"; {how_to_install('coda-deploy')}\n")


def _plugins(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    plugins = {name: SimpleNamespace(name=name, load=load, dist=None, module="other") for name, load in found.items()}
    monkeypatch.setattr(app, "_plugins", lambda: plugins)


def test_plugins_join_and_are_loaded_only_when_run(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    @click.command()
    def hello() -> None:
        click.echo("hello")

    _plugins(monkeypatch, hello=lambda: (loaded.append(1), hello)[1], demo=lambda: hello)
    help_text = " ".join(CliRunner().invoke(app.cli, ["--help"]).stdout.split())
    assert "hello" in help_text
    assert help_text.count("(needs coda-deploy)") == 6
    assert loaded == []
    assert CliRunner().invoke(app.cli, ["hello"]).stdout == "hello\n"


def test_broken_plugins_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'torch'")

    _plugins(monkeypatch, demo=missing, odd=lambda: 7)
    done = CliRunner().invoke(app.cli, ["demo"])
    assert done.exit_code == 1
    assert "`coda demo` does not start: other lacks something (No module named 'torch')" in done.stderr
    done = CliRunner().invoke(app.cli, ["odd"])
    assert done.exit_code == 1
    assert "not a click command" in done.stderr


def test_own_commands_cannot_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, doctor=lambda: 7)
    assert CliRunner().invoke(app.cli, ["doctor", "--help"]).exit_code == 0


def test_the_shell_completes_names_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("imported")

    _plugins(monkeypatch, demo=never)
    with click.Context(app.cli) as ctx:
        assert [item.value for item in app.cli.shell_complete(ctx, "de")] == ["decode", "demo"]


HEAVY = (
    "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "cuda", "PIL", "rich", "ray", "pyarrow", "kserve", "grpc",
    "uvicorn", "huggingface_hub", "fsspec", "asyncio", "coda_deploy",
    "coda_runtime.loading", "coda_runtime.parity", "coda_runtime.build.bundle", "coda_runtime.bulk.run",
    "coda_runtime.serving.server", "coda_runtime.triton.repository", "coda_runtime.hub.push", "coda_runtime.bench.run",
)  # fmt: skip


def test_help_of_every_command_imports_nothing_that_takes_long() -> None:
    """So that it is there at once, and a shell may ask for completions at every key."""
    code = f"""
import sys
from click.testing import CliRunner
from coda_runtime.cli import app
for words in ([name, *more] for name in app._OWN for more in ([], ["run"]) if not more or name == "bench"):
    assert CliRunner().invoke(app.cli, [*words, "--help"]).exit_code == 0, words
    print(*words, [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stdout.splitlines() if not line.endswith(" []")] == []


def test_help_lists_each_command_once_under_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = [name for names in app._SECTIONS.values() for name in names]
    assert sorted(grouped) == sorted({*app._OWN, *app._DEPLOY})
    _plugins(monkeypatch, hello=lambda: None)
    text = CliRunner().invoke(app.cli, ["--help"]).stdout
    titles = [*app._SECTIONS, "Of other packages"]
    assert [line[:-1] for line in text.splitlines() if line[:-1] in titles] == titles
    assert max(map(len, text.splitlines())) <= 80


def test_entry_points_of_the_installed_packages_name_known_commands() -> None:
    assert {plugin.name for plugin in metadata.entry_points(group="coda.commands")} <= set(app._DEPLOY)
