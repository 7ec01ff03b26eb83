from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.export.kernels.interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    pytest.importorskip("triton")
    process = Interpreter()
    yield process
    process.close()
