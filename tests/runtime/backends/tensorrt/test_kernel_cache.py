"""Kernels that TensorRT-RTX compiled once are not compiled again, and nothing but one's own is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coda_runtime.backends.base import LoadOptions
from coda_runtime.backends.tensorrt.kernel_cache import kernel_cache
from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.runtime.backends.tensorrt.test_backend import Machine, engine_bundle

pytestmark = pytest.mark.driver


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "coda-runtime" / "kernels"


def compiled(monkeypatch: pytest.MonkeyPatch, folder: Path, sealed: Path, *, rtx: bool = True, index: int = 0) -> int:
    """How many engines a new process compiles that runs one batch of a decoder; the file is the same each time."""
    machine = Machine(monkeypatch, rtx=rtx)
    monkeypatch.setattr("coda_runtime.backends.tensorrt.backend.compute_capability", lambda index: "sm89")
    monkeypatch.setattr(
        "coda_runtime.backends.tensorrt.backend.gpu_name", lambda index: ("NVIDIA L4", "NVIDIA L40")[index]
    )
    artifact = machine.artifact(folder, sealed)
    session = machine.backend.load(engine_bundle(folder, sealed), artifact, LoadOptions(f"cuda:{index}"))
    try:
        assert session.run(engines.ids(2)).shape[0] == 2
    finally:
        session.close()
    found: int = machine.trt.compiled
    return found


def test_a_second_process_compiles_nothing(
    sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled(monkeypatch, tmp_path, sealed) == 1
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700
    assert compiled(monkeypatch, tmp_path, sealed) == 0
    assert [*cache.iterdir()] == [file]


def test_another_gpu_has_its_own(sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(monkeypatch, tmp_path, sealed) == 1
    assert compiled(monkeypatch, tmp_path, sealed, index=1) == 1
    assert len([*cache.iterdir()]) == 2


def test_what_was_compiled_is_kept_before_the_session_ends(
    sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is killed more often than it is closed."""
    machine = Machine(monkeypatch, rtx=True)
    session = machine.backend.load(
        engine_bundle(tmp_path, sealed), machine.artifact(tmp_path, sealed), LoadOptions("cuda:0")
    )
    assert not cache.exists()
    session.run(engines.ids(1))
    assert len([*cache.iterdir()]) == 1
    session.close()


@pytest.mark.parametrize("spoil", ["cut", "altered", "empty", "others may write", "a folder"])
def test_what_is_not_ones_own_is_compiled_again(
    sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    compiled(monkeypatch, tmp_path, sealed)
    (file,) = cache.iterdir()
    data = file.read_bytes()
    if spoil == "cut":
        file.write_bytes(data[:-1])
    elif spoil == "altered":
        file.write_bytes(data[:-1] + b"x")
    elif spoil == "empty":
        file.write_bytes(b"")
    elif spoil == "others may write":
        file.chmod(0o666)
    else:
        file.unlink()
        file.mkdir()
    assert compiled(monkeypatch, tmp_path, sealed) == 1
    if spoil != "a folder":
        assert file.read_bytes() == data
        assert file.stat().st_mode & 0o777 == 0o600
        assert compiled(monkeypatch, tmp_path, sealed) == 0


def test_no_place_for_it_costs_time_alone(
    sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.parent.write_text("a file")
    assert compiled(monkeypatch, tmp_path, sealed) == 1
    assert compiled(monkeypatch, tmp_path, sealed) == 1


def test_a_library_that_refuses_it_is_not_asked_twice(
    sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(monkeypatch, tmp_path, sealed)
    monkeypatch.setattr(fake_trt.RuntimeCache, "deserialize", lambda self, blob: False)
    assert compiled(monkeypatch, tmp_path, sealed) == 1


def test_tensorrt_itself_has_none(sealed: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_cache(fake_trt.make(), "x") is None
    assert compiled(monkeypatch, tmp_path, sealed, rtx=False) == 0
    assert not cache.exists()


def test_each_fact_counts() -> None:
    trt: Any = fake_trt.make(rtx=True)
    facts = ("0" * 64, "NVIDIA L4", "sm89", "13.0")
    names = {kernel_cache(trt, *facts)._name}  # type: ignore[union-attr]
    for at in range(len(facts)):
        names.add(kernel_cache(trt, *facts[:at], "other", *facts[at + 1 :])._name)  # type: ignore[union-attr]
    trt.__version__ = "1.8.0"
    names.add(kernel_cache(trt, *facts)._name)  # type: ignore[union-attr]
    assert len(names) == 6
