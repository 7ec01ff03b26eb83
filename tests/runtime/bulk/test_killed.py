"""`coda tokenize` with a Ray of its own: killed, and started again with the same command."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from tests.runtime.bulk.conftest import expected, found, save_images
from tests.runtime.bulk.test_ray import PATIENCE, children

SHARDS = 12
ATTEMPTS = 5  # at killing a run that is at work: on a busy machine all may be done before we look


def descendants(pid: int) -> list[tuple[int, str]]:
    """The (process id, name) of a process' children, and theirs."""
    out = list(children(pid))
    return out + [below for child, _ in out for below in descendants(child)]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ray_folder(driver: subprocess.Popen[str]) -> Path:
    """The folder in /tmp of the Ray that a run has started."""
    while driver.poll() is None:
        for _, name in descendants(driver.pid):
            if found := re.search(r"/tmp/coda-ray-\w+", name):
                return Path(found[0])
        time.sleep(0.05)
    raise AssertionError("it ended before its Ray was seen")


def run_and_kill(command: list[str], out: Path, more: int = 1, pause: float = 0.0) -> bool:
    """Kill a run some seconds after it wrote so many shards, and wait for what it started. False if it was over."""
    wanted = len(list(out.glob("*.parquet"))) + more
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    end = time.monotonic() + PATIENCE
    while len(list(out.glob("*.parquet"))) < wanted:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(pause)
    driver.send_signal(signal.SIGSTOP)  # while we look at what it has started
    # Ray's two agents hold nothing, and give up on their node only after a minute.
    started = [pid for pid, name in descendants(driver.pid) if "Agent" not in name]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while left := [pid for pid in started if runs(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    # gcs_server, raylet, a reader, the encoder
    return len(started) >= 4 and len(list(out.glob("*.parquet"))) < SHARDS


def test_killed_and_started_again(sealed: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "pictures", tmp_path / "out"
    save_images(images, 4 * SHARDS, scale=8)
    command = [sys.executable, "-W", "error", "-m", "coda_runtime.cli", "tokenize", str(sealed), str(images)]
    command += ["--out", str(out), "--shard-size", "4"]
    for _ in range(ATTEMPTS):  # a busy machine may let it end before we look
        if run_and_kill(command, out):
            break
        shutil.rmtree(out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 0 < len(before) < SHARDS
    assert not (out / "manifest.json").exists()
    (out / ".shard-00011.parquet.1-ab.part").write_bytes(b"half")

    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        temporary = ray_folder(driver)
        mode = temporary.stat().st_mode
        told, complaints = driver.communicate(timeout=PATIENCE)
    went_on = f"resuming: {4 * len(before)} of {4 * SHARDS} images done\n"
    # Where it takes long, lines of progress come between.
    assert (driver.returncode, [line for line in complaints.splitlines(True) if "images/s" not in line]) == (
        0,
        [went_on],
    )
    assert stat.S_IMODE(mode) == 0o700
    assert not temporary.exists()
    report = json.loads(told)
    assert (report["images"], report["errors"], report["shards"]) == (4 * SHARDS, 0, SHARDS)
    assert report["computed"] == 4 * (SHARDS - len(before))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert found(out) == expected(sealed, images)
    names = ["errors.jsonl", "manifest.json", "plan.arrow", *(f"shard-{n:05d}.parquet" for n in range(SHARDS))]
    assert sorted(path.name for path in out.iterdir()) == names
