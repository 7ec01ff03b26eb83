from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.js.bridge import Bridge


@pytest.fixture(scope="session")
def js() -> Iterator[Bridge]:
    with Bridge() as bridge:
        yield bridge
