from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

import coda_deploy
from coda_deploy.data import DataError
from coda_deploy.data.workers import stream
from tests.deploy.data.sample_images import encode, photo, write_tar

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Items(Dataset[tuple[int, int] | DataError]):
    """(n, the process that made it), or what a test wants in place of number 3."""

    def __init__(self, third: Callable[[], DataError | None] = lambda: None) -> None:
        self.third = third

    def __getitem__(self, number: int) -> tuple[int, int] | DataError:
        wrong = self.third() if number == 3 else None
        return (number, os.getpid()) if wrong is None else wrong


def _gone(process: int) -> bool:
    """Whether a child of this process has ended."""
    return process not in {child.pid for child in multiprocessing.active_children()}


def test_more_workers_than_processors_are_no_reason_to_warn() -> None:
    """Warnings are errors here, and PyTorch's loader has one for this."""
    workers = len(os.sched_getaffinity(0)) + 1
    assert [number for number, _ in stream(Items(), [0, 1, 2], workers)] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_come_in_order_from_that_many_processes(workers: int) -> None:
    made = list(stream(Items(), [5, 1, 4, 4], workers))
    assert [number for number, _ in made] == [5, 1, 4, 4]
    processes = {process for _, process in made}
    assert len(processes) == max(workers, 1)
    assert (os.getpid() in processes) == (workers == 0)


def test_closing_stops_the_workers_at_once() -> None:
    made = stream(Items(), range(100), 2)
    process = next(made)[1]
    assert not _gone(process)
    before = time.monotonic()
    made.close()
    assert _gone(process)
    assert time.monotonic() - before < 4  # less than PyTorch's own patience


def _fail() -> DataError:
    raise RuntimeError("a mistake")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_keeps_its_words_and_a_mistake_its_kind(workers: int) -> None:
    others = multiprocessing.active_children()  # of other tests in this process
    with pytest.raises(DataError, match=r"^the words$") as caught:
        list(stream(Items(lambda: DataError("the words")), range(5), workers))
    with pytest.raises(RuntimeError, match="a mistake"):
        list(stream(Items(_fail), range(5), workers))
    # The tracebacks are still here, and their frames; the workers are not.
    assert caught.value is not None
    assert set(multiprocessing.active_children()) <= set(others)


def _die() -> DataError:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_worker_that_was_killed_is_explained() -> None:
    with pytest.raises(DataError, match=r"^of 1 process that read images one died \(DataLoader worker .*fewer workers"):
        list(stream(Items(_die), range(5), 1))


def test_signals_to_the_whole_group_leave_the_workers_alone() -> None:
    made = stream(Items(), range(100), 1)
    process = next(made)[1]
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process, number)
    assert [number for number, _ in made] == list(range(1, 100))


def test_the_training_s_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(stream(Items(), range(3), 1))
    assert torch.equal(torch.get_rng_state(), before)


PACKAGE = """
    import hashlib, multiprocessing, sys, types

    # In place of the package's own __init__, which loads diffusers: in the script and in the worker, for seconds each.
    package = types.ModuleType("coda_deploy")
    package.__path__ = [sys.argv[1]]
    sys.modules["coda_deploy"] = package
"""


def _run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(textwrap.dedent(PACKAGE + script))
    package = str(Path(coda_deploy.__file__).parent)
    command = [sys.executable, "-W", "error::ResourceWarning", str(folder / "script.py"), package, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


OPEN = """
    from coda_deploy.data import Crop, TrainLoader, open_source

    if __name__ == "__main__":
        multiprocessing.set_start_method("spawn")
        source = open_source(sys.argv[2])
        kept = []
        for workers in (0, 1):
            kept.append(TrainLoader(source, Crop(16), batch_size=4, workers=workers).batches())
            print(hashlib.sha256(next(kept[-1]).images.numpy()).hexdigest())
        raise SystemExit(3)  # with both iterators open
"""


def test_spawned_workers_see_the_same_and_an_open_iterator_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {f"{number}.png": encode(photo(number)) for number in range(5)})
    done = _run_script(tmp_path, OPEN, str(shard))
    assert (done.returncode, done.stderr) == (3, "")
    alone, helped = done.stdout.split()
    assert alone == helped


LARGE = """
    import torch
    from torch.utils.data import Dataset
    from coda_deploy.data.workers import stream

    class Large(Dataset):
        def __getitem__(self, number):
            return torch.ones(50_000_000)  # copied into shared memory for a tenth of a second

    if __name__ == "__main__":
        multiprocessing.set_start_method("spawn")
        made = stream(Large(), range(100), 1)
        next(made)
        made.close()
"""


def test_a_spawned_worker_that_is_stopped_while_it_sends_ends_in_silence(tmp_path: Path) -> None:
    done = _run_script(tmp_path, LARGE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _read_until_killed(pipe: Connection) -> None:
    made = stream(Items(), range(100), 1)
    pipe.send(next(made)[1])
    signal.pause()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at a process that is not its own")
def test_workers_go_when_their_parent_was_killed() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=_read_until_killed, args=(theirs,))
    parent.start()
    worker = ours.recv()
    assert _runs(worker)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 30
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(worker)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
