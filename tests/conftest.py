"""What every test runs under: hypothesis without deadlines, the same examples in every CI run, no user's cache.

Expensive things that several folders share are made once for the session; their imports stand inside, so that the
runtime's tests do not load PyTorch.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests import exported_graphs, torchvision_schemas

if TYPE_CHECKING:
    from coda_deploy import CodaTokenizer
    from tests.golden import Golden
    from tests.hub_server import Hub

# A deadline fails on a busy machine, not on a bug.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# What a shell starts in the background is told to ignore Ctrl-C, and so is every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Here and in every process that a test starts; it costs nothing until torchvision is imported.
torchvision_schemas.install()
os.environ.update(torchvision_schemas.environment())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no slow test after CODA_TESTS_UNTIL, in seconds since 1970: a run with a limit ends with what it knows."""
    until = float(os.environ.get("CODA_TESTS_UNTIL", "inf"))
    if time.time() > until and item.get_closest_marker("slow") is not None:
        pytest.skip("the time of this run is over (CODA_TESTS_UNTIL)")


def pytest_fixture_setup(request: pytest.FixtureRequest) -> None:
    """Look at every graph that is exported, by a fixture too."""
    exported_graphs.watch(_traced(request.config))


def pytest_runtest_call(item: pytest.Item) -> None:
    """Look at every graph that is exported, also where the test has no fixture."""
    exported_graphs.watch(_traced(item.config))


def _traced(config: pytest.Config) -> Path:
    """Name the folder of traced graphs: this run's alone, and shared by its workers."""
    base: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "traced"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, with an empty cache and a token that may write."""
    from tests.hub_server import Hub, point_at, serving

    with serving(Hub()) as running:
        point_at(running.url, tmp_path / "hf", monkeypatch)
        yield running


@pytest.fixture(scope="session", params=("mar_v16384", "flux_v65536"))
def golden(request: pytest.FixtureRequest) -> Golden:
    """One variant's golden case; pytest runs all tests of one variant before it makes the other."""
    pytest.importorskip("torch", reason="golden cases are PyTorch's")
    from tests.golden import Golden

    return Golden(request.param)


@pytest.fixture(scope="session")
def golden_tokenizer(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodaTokenizer]:
    """The synthetic official checkpoint of ``golden``, imported: one variant by one command from a Hub, one here.

    On its way the largest file is cut once, half-way.
    """
    from coda_deploy import CodaTokenizer
    from coda_deploy.official import PUBLISHED, import_official
    from tests.golden import write_checkpoint
    from tests.hub_server import Hub, environment, serving

    folder = tmp_path_factory.mktemp("official")
    write_checkpoint(golden.variant, folder / "official" / golden.variant)
    if golden.variant == "mar_v16384":
        with serving(Hub()) as hub:
            commit = hub.push_folder(PUBLISHED, folder / "official")
            hub.cut = {"mar_v16384/vae_ema.pth"}
            coda = [sys.executable, "-m", "coda_runtime.cli", "import-official", "--variant", golden.variant]
            env = environment(hub.url, folder / "hf")
            out = folder / "tokenizer"
            done = subprocess.run([*coda, "--out", out], capture_output=True, text=True, check=False, env=env)
        told = [
            f"{out}: mar_v16384, 680 tokens per image, 16,384 codes",
            f"to get exactly this again: {PUBLISHED}@{commit}",
        ]
        assert (done.returncode, done.stdout.splitlines()) == (0, told), done.stderr
        assert "%" not in done.stderr, "no progress bar in a pipe"
        assert hub.ranges == ["mar_v16384/vae_ema.pth"]
        tokenizer = CodaTokenizer.from_pretrained(out)
        assert (tokenizer.checkpoint or {})["commit"] == commit
    else:
        tokenizer = import_official(folder / "official", golden.variant)
    shutil.rmtree(folder)
    yield tokenizer
    # The fixture's value outlives the variant; its weights (0.3 GB) must not.
    tokenizer.to("meta")


@pytest.fixture(scope="session")
def openvino_device() -> None:
    """For tests that compute on OpenVINO's plugin, which takes the hardware of Intel only."""
    pytest.importorskip("onnxruntime_ep_openvino", reason="onnxruntime-ep-openvino is not installed")
    from coda_runtime.backends.onnxruntime import library, plugins

    lacks = plugins.idle_plugin(library.load_library(), plugins.OPENVINO)
    if lacks is not None:
        pytest.skip(lacks)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny tokenizer; not to be changed."""
    from tests import tiny_tokenizers

    folder = tmp_path_factory.mktemp("tiny") / "tokenizer"
    tiny_tokenizers.make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_folder: Path, request: pytest.FixtureRequest) -> Path:
    """The tiny tokenizer's bundle, exported in fp32, fp16 and bf16; not to be changed."""
    from coda_deploy.export import export_tokenizer
    from coda_export import Threshold

    exported_graphs.watch(_traced(request.config))  # the exporter may have been imported just now
    out = tiny_folder.parent / "bundle"
    thresholds = {"fp32": Threshold(0.999, 55.0), "fp16": Threshold(0.5, 20.0), "bf16": Threshold(0.5, 20.0)}
    export_tokenizer(tiny_folder, out, precisions=("fp32", "fp16", "bf16"), thresholds=thresholds)
    return out
