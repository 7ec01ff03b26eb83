"""Before requests come, each batch profile of the engines has run."""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_runtime import load
from coda_runtime.format.parts import PARTS
from coda_runtime.format.profiles import Batch
from coda_runtime.serving.replicas import Replicas
from tests.runtime.test_sessions import RemoteBackend


@pytest.mark.parametrize(
    ("profiles", "batch", "sizes"),
    [
        (((1, 2, 4),), 4, [1, 4]),
        (((1, 1, 1), (4, 6, 8)), 8, [1, 6, 8]),
        (((1, 2, 3), (4, 6, 8)), 8, [1, 2, 6, 8]),
        (((1, 2, 3), (4, 6, 8)), 4, [1, 2, 4]),
    ],
)
def test_each_profile_is_warmed_up(sealed: Path, profiles: tuple[Batch, ...], batch: int, sizes: list[int]) -> None:
    backend = RemoteBackend()
    backend.profiles = dict.fromkeys(PARTS, profiles)
    replicas = Replicas(lambda _: load(sealed, backend=backend), ["cuda:0"])
    replicas.warm_up(batch)
    assert [session.sizes for session in backend.sessions.values()] == [sizes] * 3
    replicas.close()
