"""One holder of a folder at a time, in this process and others, and nothing left of one that wrote nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from coda_runtime.io import folder_lock
from coda_runtime.io.folder_lock import held_folder

HOLD = """
import sys, time
from pathlib import Path
from coda_runtime.io.folder_lock import held_folder
with held_folder(Path(sys.argv[1]), "lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)


def test_a_second_holder_in_the_process_is_refused_and_takes_nothing_away(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    refused: list[str | None] = []

    def second(folder: Path) -> None:
        with pytest.raises(BlockingIOError) as caught, held_folder(folder, "lock"):
            pass
        refused.append(caught.value.strerror)

    with held_folder(out, "lock") as path:
        second(out)
        second(tmp_path / "link" / "out")
        thread = threading.Thread(target=second, args=(out,))
        thread.start()
        thread.join(60)
        assert refused == ["this very process"] * 3
        with hold(out) as other:  # would be let in, had the second one closed the lock's file
            assert other.wait(60) == 1
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    with held_folder(out, "lock"):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=rf"process {process.pid} on "), held_folder(tmp_path, "lock"):
            pass
        process.send_signal(signal.SIGKILL)
    with held_folder(tmp_path, "lock"):
        (tmp_path / "mine").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_lock_that_was_taken_away_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened, and before it is locked the run that made it goes, and takes it and the folder away."""
    acquire, times = folder_lock._acquire, 0

    def late(file: IO[str]) -> None:
        nonlocal times
        times += 1
        if times == 1:
            (tmp_path / "out" / "lock").unlink()
            (tmp_path / "out").rmdir()
        acquire(file)

    monkeypatch.setattr(folder_lock, "_acquire", late)
    with held_folder(tmp_path / "out", "lock") as path:
        assert (times, path.exists()) == (2, True)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with held_folder(tmp_path, "lock"), pytest.raises(BlockingIOError), held_folder(tmp_path, "lock"):
        pass
