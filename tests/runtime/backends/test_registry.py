from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coda_runtime import BackendError, CodaError, MissingDependencyError, load
from coda_runtime.backends import LoadOptions, Session, get_backend, names, register, unregister
from coda_runtime.backends.registry import is_automatic
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from tests.runtime import tiny


class FakeSession:
    device = "nowhere"
    batch = None

    def __init__(self, part: str, log: list[str]) -> None:
        self.part, self.log = part, log

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.log.append(f"run {self.part} {len(batch)}")
        if self.part == "encoder":
            return np.zeros((len(batch), 4, 4, 4), np.float32)
        if self.part == "quantizer":
            return np.ones((len(batch), 21), np.int32)
        return np.full((len(batch), 32, 32, 3), 7, np.uint8)

    def close(self) -> None:
        self.log.append(f"close {self.part}")


class FakeBackend:
    name = "fake"
    formats: tuple[str, ...] = ("onnx",)
    precisions = None

    def __init__(self, lacks: MissingDependencyError | None = None, fail_at: str = "") -> None:
        self.log: list[str] = []
        self.lacks, self.fail_at = lacks, fail_at

    def missing(self) -> MissingDependencyError | None:
        return self.lacks

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        return self.lacks

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        if artifact.part == self.fail_at:
            raise BackendError("it broke")
        return FakeSession(artifact.part, self.log)


@pytest.fixture
def fake() -> Iterator[FakeBackend]:
    backend = FakeBackend()
    register("fake", lambda: backend)
    yield backend
    unregister("fake")


def test_a_backend_can_be_swapped_by_name(sealed: Path, fake: FakeBackend) -> None:
    with load(sealed, backend="fake") as tok:
        assert (tok.reconstruct(tiny.photos(2)) == 7).all()
        assert {a.backend for a in tok.artifacts} == {"fake"}
        assert {a.device for a in tok.artifacts} == {"nowhere"}
    parts = ["encoder", "quantizer", "decoder"]
    assert fake.log == [f"run {part} 2" for part in parts] + [f"close {part}" for part in parts]


def test_a_backend_can_be_passed_as_an_object(sealed: Path) -> None:
    with load(sealed, backend=FakeBackend()) as tok:
        assert (tok.encode(tiny.photos(1)) == 1).all()


def test_what_was_loaded_is_closed_when_a_later_part_fails(sealed: Path) -> None:
    backend = FakeBackend(fail_at="decoder")
    with pytest.raises(BackendError, match="it broke"):
        load(sealed, backend=backend)
    assert backend.log == ["close encoder", "close quantizer"]


def test_a_missing_library_is_raised_and_not_skipped(sealed: Path) -> None:
    missing = MissingDependencyError("fake needs a library", "cpu")
    with pytest.raises(MissingDependencyError, match="fake needs a library"):
        load(sealed, backend=FakeBackend(lacks=missing))


def test_names_are_taken_once(fake: FakeBackend) -> None:
    assert names() == ("tensorrt", "tensorrt-rtx", "cuda", "onnxruntime", "openvino", "fake")
    assert get_backend("fake") is fake
    with pytest.raises(BackendError, match="already exists"):
        register("fake", lambda: fake)
    with pytest.raises(BackendError, match="there is no backend named 'other'"):
        unregister("other")


def test_which_may_be_chosen_unasked() -> None:
    """What `coda tune` may record: no program of a bundle's maker, and no backend that is for those who ask."""
    assert is_automatic("onnxruntime")
    assert not is_automatic("cuda")
    assert not is_automatic("no-such")
