"""Bundles for the runtime's tests: one built for the session, copied wherever a test changes it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import coda_runtime
from tests.runtime import tiny
from tests.runtime.backends.cuda.driver import missing
from tests.runtime.backends.cuda.driver.controls import Driver, Watch, loaded
from tests.runtime.backends.cuda.driver.others import Producer
from tests.runtime.backends.cuda.driver.process import pytest_collection_modifyitems as pytest_collection_modifyitems
from tests.runtime.backends.cuda.driver.process import pytest_runtest_protocol as pytest_runtest_protocol


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _on_the_driver(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test marked `driver` where something was done that CUDA forbids, or where Python failed in the driver."""
    if request.node.get_closest_marker("driver") is None:
        yield
        return
    lacks = missing()
    if lacks is not None:
        pytest.skip(lacks)
    driver = loaded()
    gc.collect()  # what earlier tests left is not this one's
    for index in range(2):
        driver.finish(index)
    driver.clear()
    yield
    driver.chance(0)
    assert (driver.failures, driver.breaches()) == ([], [])


@pytest.fixture(scope="session")
def npm_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runtime/js with what its lock file names, which takes npm and a network; tests put scripts of their own there."""
    from tests.runtime.js.npm import install

    return install(tmp_path_factory.mktemp("npm") / "package")


@pytest.fixture(scope="session")
def sample_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped tokenizer's bundle in fp32 and int8, which takes PyTorch and minutes; not to be changed."""
    from coda_deploy.export import export_tokenizer
    from coda_deploy.sample import tokenizer_path

    out = tmp_path_factory.mktemp("sample") / "bundle"
    export_tokenizer(tokenizer_path(), out, precisions=("fp32", "int8"))
    return out


@pytest.fixture(scope="session")
def driver() -> Driver:
    """The stand-in for the CUDA driver; a test that has it runs in its module's own process."""
    lacks = missing()
    if lacks is not None:
        pytest.skip(lacks)
    return loaded()


@pytest.fixture
def foreign(driver: Driver) -> Iterator[Callable[..., Any]]:
    """Makes arrays of another library, which keeps them until the test is over; typed as whoever has a tensor."""
    made = []

    def make(*arguments: Any, **options: Any) -> Any:
        made.append(Producer(*arguments, **options))
        return made[-1]

    yield make
    for index in range(2):
        driver.finish(index)


@pytest.fixture
def gpu(driver: Driver) -> Watch:
    """What happens on its first device."""
    return Watch(driver)


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle; not to be changed."""
    return tiny.make_bundle(tmp_path_factory.mktemp("sealed") / "bundle")


@pytest.fixture(scope="session")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made by hand; not to be changed."""
    return tiny.make_minimal_bundle(tmp_path_factory.mktemp("minimal") / "bundle")


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a bundle to where the test may change it."""
    return lambda source: Path(shutil.copytree(source, tmp_path / "bundle"))


@pytest.fixture
def tok(sealed: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(sealed) as tokenizer:
        yield tokenizer
