from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from coda_runtime import BundleNotFoundError, OutputError, load
from coda_runtime.io import remembered
from coda_runtime.io.user_folders import cache_folder, expand_home


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number without an account."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_the_home_is_put_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert expand_home("~/bundle") == tmp_path / "bundle"
    assert expand_home("bundle") == Path("bundle")
    assert cache_folder() == tmp_path / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_a_home_of_nobody_is_a_path_like_any_other() -> None:
    assert expand_home("~no-such-user/bundle") == Path("~no-such-user/bundle")
    with pytest.raises(BundleNotFoundError, match="~no-such-user/bundle"):
        load("~no-such-user/bundle")


@pytest.mark.usefixtures("homeless")
def test_without_a_home(sealed: Path) -> None:
    assert expand_home("~/bundle") == Path("~/bundle")
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME to a folder"):
        cache_folder()
    assert remembered.recall("/any") is None
    with load(sealed, "cpu") as tok:
        assert tok.artifacts
    with pytest.raises(BundleNotFoundError, match="~/bundle"):
        load("~/bundle")
