"""Ray's folder of our own: gone with its run, and those of killed runs with the next one."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from coda_runtime.bulk import cluster


def test_folders_of_killed_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SHORT", str(tmp_path))
    long_ago = time.time() - 3600
    for name in ("dead", "alive", "young"):
        folder = tmp_path / f"coda-ray-{name}"
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "spilled").write_bytes(b"pixels")
        if name != "young":
            os.utime(folder / "lock", (long_ago, long_ago))
    (tmp_path / "coda-ray-unknown").mkdir()
    with (tmp_path / "coda-ray-alive" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with cluster._temporary_folder() as mine:
            kept = {"coda-ray-alive", "coda-ray-young", "coda-ray-unknown"}
            assert {path.name for path in tmp_path.iterdir()} == {*kept, Path(mine).name}
        assert {path.name for path in tmp_path.iterdir()} == kept
