"""The same random numbers in every run, no user's cache, and the tiny tokenizer as an exporter takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coda_deploy import CodaTokenizer
from coda_deploy.folding import fold_tokenizer
from coda_deploy.reference import TorchReference
from coda_export import Folded


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folded(tiny_folder: Path) -> Folded:
    return fold_tokenizer(CodaTokenizer.from_pretrained(tiny_folder))


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> TorchReference:
    return TorchReference(CodaTokenizer.from_pretrained(tiny_folder))
