from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.io.filenames import png_names


def test_names_stay_readable() -> None:
    assert png_names(["a.jpg", "cats/b.JPEG", "c", "v1.5", "d.tar.gz", ".hidden"]) == [
        "a.png", "cats/b.png", "c.png", "v1.5.png", "d.tar.png", "hidden.png",
    ]  # fmt: skip


def test_names_never_collide() -> None:
    assert png_names(["a.jpg", "a.png", "A.gif", "a-2.jpg"]) == ["a.png", "a-2.png", "A-3.png", "a-2-2.png"]
    assert png_names(["x.jpg", "x.png/y.jpg"]) == ["x.png", "x.png_/y.png"]


def test_names_never_leave_the_folder() -> None:
    bad = ["../../etc/passwd", "/abs/x.png", "C:\\x\\y.jpg", "..", "", "a/../b", "nul.txt", "a\0b", "con"]
    assert png_names(bad) == [
        "etc/passwd.png", "abs/x.png", "C__x_y.png", "image.png", "image-2.png", "a/b.png", "_nul.png", "a_b.png",
        "_con.png",
    ]  # fmt: skip


@given(st.lists(st.text(max_size=30) | st.text(alphabet="a./\\:-P", max_size=8), max_size=12))
def test_any_names_give_as_many_safe_distinct_ones(names: list[str]) -> None:
    out = png_names(names)
    assert len({name.casefold() for name in out}) == len(out) == len(names)
    folders = {str(parent).casefold() for name in out for parent in PurePosixPath(name).parents}
    for name in out:
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert not PureWindowsPath(name).drive
        assert ".." not in path.parts
        assert name.casefold() not in folders
        assert all(0 < len(part.encode()) <= 255 for part in path.parts)


def test_many_equal_names_take_no_minutes() -> None:
    """Trying each number for each name would be a billion tries."""
    out = png_names(["x.jpg"] * 60_000)
    assert out[:3] == ["x.png", "x-2.png", "x-3.png"]
    assert out[-1] == "x-60000.png"
