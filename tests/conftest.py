"""What every test runs under: hypothesis without deadlines, the same examples in every CI run, no user's cache.

Expensive things that several folders share are made once for the session; their imports stand inside, so that the
runtime's tests do not load PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from coda_deploy import CodaTokenizer
    from tests.golden import Golden

# A deadline fails on a busy machine, not on a bug.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", params=("mar_v16384", "flux_v65536"))
def golden(request: pytest.FixtureRequest) -> Golden:
    """One variant's golden case; pytest runs all tests of one variant before it makes the other."""
    from tests.golden import Golden

    return Golden(request.param)


@pytest.fixture(scope="session")
def golden_tokenizer(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodaTokenizer]:
    """The synthetic official checkpoint of ``golden``, imported."""
    import shutil

    from coda_deploy.official import import_official
    from tests.golden import write_checkpoint

    folder = write_checkpoint(golden.variant, tmp_path_factory.mktemp("official") / golden.variant)
    tokenizer = import_official(folder, golden.variant)
    shutil.rmtree(folder)
    yield tokenizer
    # The fixture's value outlives the variant; its weights (0.3 GB) must not.
    tokenizer.to("meta")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny tokenizer; not to be changed."""
    from tests import tiny_tokenizers

    folder = tmp_path_factory.mktemp("tiny") / "tokenizer"
    tiny_tokenizers.make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_folder: Path) -> Path:
    """The tiny tokenizer's bundle, exported in fp32, fp16 and bf16; not to be changed."""
    from coda_deploy.export import export_tokenizer
    from coda_export import Floor

    out = tiny_folder.parent / "bundle"
    floors = {"fp32": Floor(0.999, 55.0), "fp16": Floor(0.5, 20.0), "bf16": Floor(0.5, 20.0)}
    export_tokenizer(tiny_folder, out, precisions=("fp32", "fp16", "bf16"), floors=floors)
    return out
