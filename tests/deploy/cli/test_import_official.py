"""`coda import-official`: from the Hub and from a folder, as processes; and what it refuses.

The golden tests of one variant are made by a run in full size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

from coda_deploy.official import PUBLISHED
from coda_deploy.tokenizer.variants import VARIANTS
from coda_runtime.cli.app import cli
from tests.deploy.official.narrow import checkpoint, narrow_variants, write
from tests.hub_server import Hub

FLUX = "flux_v65536"
NARROW = [sys.executable, "-W", "error", "-m", "tests.deploy.official.narrow"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder as it is published, with the variants' subfolders, of narrow ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, config in narrow_variants().items():
            patch.setitem(VARIANTS, name, config)
        write(tmp_path / "official" / FLUX, checkpoint(FLUX)[1])
    return tmp_path / "official"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`coda import-official` of a narrow FLUX in a process of its own, in a pipe."""
    command = [*NARROW, "import-official", *map(str, arguments), "--variant", FLUX]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def provenance(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "provenance.json").read_text())["checkpoint"]
    assert isinstance(found, dict)
    return found


def test_one_command_and_again_without_a_network(
    hub: Hub, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push_folder(PUBLISHED, official)
    done = run("--out", tmp_path / "one")
    told = [f"{tmp_path / 'one'}: {FLUX}, 21 tokens per image, 32 codes"]
    told.append(f"to get exactly this again: {PUBLISHED}@{commit}")
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", told)
    digests = {
        path.relative_to(official).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in official.rglob("*.pth")
    }
    found = {"hub": PUBLISHED, "revision": "main", "commit": commit, "files": digests}
    assert provenance(tmp_path / "one") == found
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = run("--out", tmp_path / "two")
    assert (offline.returncode, offline.stderr) == (0, ""), offline.stderr
    assert hub.asked == []
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "config.json",
        "model.safetensors",
        "provenance.json",
    }
    for path in (tmp_path / "two").iterdir():
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_a_commit_of_the_past_and_a_folder_give_the_same_weights(
    hub: Hub, official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, config in narrow_variants().items():
        monkeypatch.setitem(VARIANTS, name, config)
    commit = hub.push_folder(PUBLISHED, official)
    hub.commit(PUBLISHED, "main", {"README.md": b"moved"})
    for out, arguments in (("one", ["--revision", commit]), ("two", [str(official)])):
        done = CliRunner().invoke(cli, ["import-official", *arguments, "--variant", FLUX, "--out", str(tmp_path / out)])
        assert (done.exit_code, done.stderr) == (0, ""), done.output
    pinned = provenance(tmp_path / "one")
    assert (pinned["revision"], pinned["commit"]) == (commit, commit)
    assert provenance(tmp_path / "two") == {"files": pinned["files"]}
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_tokenizer_is_not_replaced_unasked(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been trained for days."""
    for name, config in narrow_variants().items():
        monkeypatch.setitem(VARIANTS, name, config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"trained for days")
    run = ["import-official", str(official), "--variant", FLUX, "--out", str(tmp_path / "mine")]
    refused = CliRunner().invoke(cli, run)
    assert refused.exit_code == 1
    assert "holds model.safetensors already: give --force to replace it, or another --out" in refused.stderr
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == b"trained for days"
    assert CliRunner().invoke(cli, [*run, "--force"]).exit_code == 0
    assert (tmp_path / "mine" / "config.json").exists()


def test_a_terminal_shows_progress(hub: Hub, official: Path, tmp_path: Path) -> None:
    hub.push_folder(PUBLISHED, official)
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 120))
    command = [*NARROW, "import-official", "--variant", FLUX, "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=inside, cwd=ROOT) as process:
        os.close(inside)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal whose other end is closed is read no further
            while data := os.read(terminal, 4096):
                shown += data
        process.communicate(timeout=300)
    os.close(terminal)
    assert process.returncode == 0, shown
    assert b"vae_ema.pth" in shown
    assert b"100%" in shown


def test_what_the_hub_does_not_have_is_one_line(hub: Hub, official: Path, tmp_path: Path) -> None:
    hub.push_folder("someone/CODA", official / FLUX, "v1")
    done = CliRunner().invoke(
        cli, ["import-official", "someone/CODA@v1", "--variant", "mar_v16384", "--out", str(tmp_path / "tokenizer")]
    )
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    # Its two files are there, at the root, but of another variant, which is narrow besides.
    assert line.startswith("error: ")
    assert "is it the variant you named?" in line
    done = CliRunner().invoke(cli, ["import-official", "--variant", FLUX, "--out", str(tmp_path / "tokenizer")])
    assert done.stderr.startswith(f"error: there is no model '{PUBLISHED}' on the Hugging Face Hub, or it is private")
    assert done.exit_code == 1
    assert not (tmp_path / "tokenizer").exists()


def test_help_has_an_example_of_each_way() -> None:
    done = CliRunner().invoke(cli, ["import-official", "--help"])
    assert done.exit_code == 0
    for way in ("", " --revision COMMIT", "coda-flux/", "someone/CODA@v1"):
        assert any(way in line for line in done.stdout.splitlines() if "coda import-official " in line)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--variant", FLUX], 1, "error: no folder at"),
        (["--variant", FLUX, "--revision", "v1"], 1, "a folder has no revisions: leave it out"),
        (["--variant", "sd"], 2, "'sd' is not one of 'mar_v16384', 'flux_v65536'"),
        ([], 2, "Missing option '--variant'"),
    ],
)
def test_what_is_rejected(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(
        cli, ["import-official", str(tmp_path / "official"), *arguments, "--out", str(tmp_path / "tokenizer")]
    )
    assert result.exit_code == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    for file in ("vae_ema.pth", "quantizer_ema.pth"):
        (official / file).write_bytes(b"cut")
    result = CliRunner().invoke(
        cli, ["import-official", str(official), "--variant", "mar_v16384", "--out", str(tmp_path / "tokenizer")]
    )
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "vae_ema.pth is truncated, damaged" in line
    assert [path.name for path in tmp_path.iterdir()] == ["official"]
