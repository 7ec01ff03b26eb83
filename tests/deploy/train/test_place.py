"""One training in a folder at a time, and none among the images that it learns from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coda_deploy.data import DataError
from coda_deploy.train.place import LOCK, check_apart, held
from coda_runtime.errors import OutputError
from tests.deploy.train import runs

HOLD = """
import sys, time
from pathlib import Path
from coda_deploy.train.place import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_nothing_is_left(tmp_path: Path) -> None:
    with held(tmp_path / "deep" / "out") as lock:
        assert lock == tmp_path / "deep" / "out" / LOCK
        assert lock.exists()
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path / "out"):
        (tmp_path / "out" / "mine").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_second_training_is_refused(workspace: runs.Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with hold(out) as process:
        for resume in (False, True):
            with pytest.raises(
                OutputError, match=rf"out is in use, process {process.pid} on .* is training there: wait"
            ):
                workspace.train(out, runs.config(), resume=resume)
        assert [path.name for path in out.iterdir()] == [LOCK]
        process.send_signal(signal.SIGKILL)
    # The lock of a run that was killed is free.
    with held(out):
        assert str(os.getpid()) in (out / LOCK).read_text()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot be written \(.*\); choose another --out"),
        held(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("out", [".", "run", "deep/run", "link/run"])
def test_no_training_among_its_images(workspace: runs.Workspace, tmp_path: Path, out: str) -> None:
    """It would learn from its own sample grids, and find another number of images when it is resumed."""
    photos = runs.write_photos(tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    if out.startswith("link"):
        (photos / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        DataError, match=r"--out .* lies in .*photos, whose images are .* choose an --out outside of it"
    ):
        runs.train(runs.config(), photos, photos / out, vae=workspace.vae)
    assert sorted(tmp_path.rglob("*")) == before


def test_nor_on_what_it_writes(tmp_path: Path) -> None:
    for name in ("pictures", "checkpoints", "checkpoints/step-00000001"):
        with pytest.raises(DataError, match=r"is where a run in --out .* writes its own"):
            check_apart(tmp_path, tmp_path / name)
    for name in ("photos", "..", "hf:owner/name", "shards/{000..002}.tar"):
        check_apart(tmp_path, tmp_path / name)


def test_a_hidden_folder_is_not_searched(workspace: runs.Workspace, tmp_path: Path) -> None:
    photos = runs.write_photos(tmp_path / "photos")
    runs.train(runs.config(optim={"steps": 1}), photos, photos / ".run", vae=workspace.vae)
    assert not (photos / ".run" / LOCK).exists()


def test_nor_a_second_one_of_the_same_process(tmp_path: Path) -> None:
    with held(tmp_path / "out") as lock:
        with pytest.raises(OutputError, match=r"out is in use, this very process is training there"), held(lock.parent):
            pass
        assert lock.exists()
