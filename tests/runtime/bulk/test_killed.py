"""`coda tokenize` with a Ray of its own: killed, and started again with the same command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.runtime.bulk.conftest import expected, found, save_pictures
from tests.runtime.bulk.test_ray import PATIENCE, children

CODE = "from coda_runtime.cli import app, main; app._OWN.setdefault('tokenize', ''); main()"
SHARDS = 12


def descendants(pid: int) -> list[tuple[int, str]]:
    """The (process id, name) of a process' children, and theirs."""
    out = list(children(pid))
    return out + [below for child, _ in out for below in descendants(child)]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_and_started_again(sealed: Path, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    save_pictures(pictures, 4 * SHARDS, scale=20)
    command = [sys.executable, "-W", "error", "-c", CODE, "tokenize", str(sealed), str(pictures), "--out", str(out)]
    command += ["--shard-size", "4"]
    driver = subprocess.Popen(command)
    end = time.monotonic() + PATIENCE
    while not list(out.glob("*.parquet")):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    # Ray's two agents hold nothing, and give up on their node only after a minute.
    started = [pid for pid, name in descendants(driver.pid) if "Agent" not in name]
    assert len(started) >= 4  # gcs_server, raylet, a reader, the encoder
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 0 < len(before) < SHARDS
    assert not (out / "manifest.json").exists()
    while left := [pid for pid in started if runs(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    (out / ".shard-00011.parquet.1-ab.part").write_bytes(b"half")
    temporary = set(Path("/tmp").glob("coda-ray-*"))

    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["images"], report["errors"], report["shards"]) == (4 * SHARDS, 0, SHARDS)
    assert report["computed"] == 4 * (SHARDS - len(before))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert found(out) == expected(sealed, pictures)
    names = [".lock", "errors.jsonl", "manifest.json", "plan.arrow", *(f"shard-{n:05d}.parquet" for n in range(SHARDS))]
    assert sorted(path.name for path in out.iterdir()) == names
    assert set(Path("/tmp").glob("coda-ray-*")) <= temporary
