from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from coda_runtime.cli.tables import layout, printable

COLUMNS = ("file", "ran on", "step agreement", "free-running", "PSNR", "worst image", "lost", "batch sizes")
ROW = ("encoder.bf16.onnx", "onnxruntime:cpu", "not run", "", "", "", "", "1,8")
LONG = (
    "encoder.bf16.onnx is in bf16, which onnxruntime's own CPU provider cannot run; run it on a GPU, or pass "
    'precision="fp32"'
)
cells = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60)


@given(rows=st.lists(st.lists(cells, min_size=1, max_size=9), min_size=1, max_size=4), width=st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    lines = layout(rows, (), width)
    assert max(map(cell_len, lines)) <= width
    wanted = sorted(printable("".join(text for row in rows for text in row)).replace(" ", ""))
    assert sorted("".join(lines).replace(" ", "")) == wanted


def test_a_table_that_fits_is_aligned() -> None:
    assert layout([("a", 1), ("bcd", None)], ("name", "n"), 80) == ["name  n", "a     1", "bcd"]


def test_long_cells_are_broken_between_words() -> None:
    assert layout([("a", "one two three four five")], ("", "what"), 15) == [
        "   what", "a  one two", "   three four", "   five",
    ]  # fmt: skip
    assert layout([("folder/of/photographs/cat.jpg",)], (), 12) == ["folder/of/", "photographs/", "cat.jpg"]


def test_rows_of_too_many_columns_become_lists() -> None:
    assert layout([ROW], COLUMNS, 50) == [
        "encoder.bf16.onnx", "  ran on: onnxruntime:cpu", "  step agreement: not run", "  batch sizes: 1,8",
    ]  # fmt: skip


def test_in_a_pipe_a_row_is_a_line_and_nothing_is_cut() -> None:
    lines = layout([("photo.jpg", LONG, "x"), ("b.jpg", "ok", "y")], ("file", "why", "z"), None)
    assert lines[1] == f"photo.jpg  {LONG}  x"
    assert lines[2] == "b.jpg      ok" + " " * 40 + "y"
    assert len(lines[0]) < 60


@pytest.mark.parametrize("width", [40, 80, 120])
def test_verify_on_a_terminal(sealed: Path, width: int) -> None:
    pty = pytest.importorskip("pty")
    run = [sys.executable, "-c", "from coda_runtime.cli import main; main()", "inspect", str(sealed)]
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(run, stdout=slave, stderr=subprocess.PIPE, env=env) as process:
        os.close(slave)
        told = b""
        try:
            while part := os.read(master, 65536):
                told += part
        except OSError:  # the end, of a terminal on Linux
            pass
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(master)
    lines = told.decode().splitlines()
    assert len(lines) > 10
    assert max(map(len, lines)) <= width
