"""A tokenizer that was loaded before a fork: refused in the child, which ends all the same."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import coda_runtime

CHILD = """
import os, sys, threading
import numpy as np
import coda_runtime

tok = coda_runtime.load(sys.argv[1], threads=2)
images = np.zeros((4, 32, 32, 3), np.uint8)
tok.encode(images)
stop = threading.Event()

def go_on():
    while not stop.is_set():
        tok.encode(images)

other = threading.Thread(target=go_on)
if "busy" in sys.argv:
    other.start()
pid = os.fork()
if pid == 0:
    {does}
    sys.exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
stop.set()
if "busy" in sys.argv:
    other.join()
assert tok.encode(images).shape == (4, 21)  # the parent's is whole
sys.exit(code)
"""
REJECTED = """
    for use in (lambda: tok.encode(images), lambda: tok.decode(np.zeros((1, 21), np.int32)), lambda: tok.codebook):
        try:
            use()
        except coda_runtime.ClosedError as error:
            assert "after the fork" in str(error), error
        else:
            sys.exit("it ran")
    tok.close()
    assert coda_runtime.load(sys.argv[1]).encode(images).shape == (4, 21)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("busy", ["", "busy"])
@pytest.mark.parametrize("does", ["pass", "tok.close()", REJECTED.strip()], ids=["nothing", "close", "use"])
def test_a_child_is_rejected_and_ends(sealed: Path, does: str, busy: str) -> None:
    # From 3.12 on Python warns of what is tried here, a fork beside threads.
    python = [sys.executable, "-W", "ignore:This process:DeprecationWarning"]
    # A child that waits for its parent's threads waits for ever: 120 s are much more than the others take.
    done = subprocess.run(
        [*python, "-c", CHILD.format(does=does), sealed, busy],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")


def test_a_pickle_is_rejected_with_the_way_out(tok: coda_runtime.Tokenizer) -> None:
    with pytest.raises(TypeError, match=r"pass the path .* and call coda_runtime\.load in each process"):
        pickle.dumps(tok)
