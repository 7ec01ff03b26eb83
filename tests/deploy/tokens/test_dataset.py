"""TokenDataset, also in a DataLoader's forked workers; pickled, as spawned ones get it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from coda_deploy.tokens import TokenDataset
from coda_runtime import OutputError
from coda_runtime.bulk import tokenize
from tests.runtime import tiny
from tests.runtime.bulk.conftest import expected, save_images
from tests.runtime.bulk.local_pipeline import without_ray

COUNT = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """A folder of tokens in four shards, and {key: ids}."""
    base = tmp_path_factory.mktemp("tokens")
    bundle = tiny.make_bundle(base / "bundle")
    save_images(base / "pictures", COUNT)
    with pytest.MonkeyPatch.context() as patch, without_ray():
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        tokenize(bundle, base / "pictures", base / "out", shard_size=3, label="folder")
        return base / "out", expected(bundle, base / "pictures")


def test_items(made: tuple[Path, dict[str, list[int]]]) -> None:
    where, ids = made
    data = TokenDataset(where)
    assert (len(data), data.spec.scales) == (COUNT, tiny.SCALES)
    for copy in (data, pickle.loads(pickle.dumps(data))):
        items = [copy[index] for index in range(COUNT)]
        assert all(item["ids"].dtype == torch.int64 for item in items)
        assert [item["ids"].tolist() for item in items] == [ids[key] for key in sorted(ids)]
        assert [item["label"] for item in items] == [key.split("/")[0] for key in sorted(ids)]
    with pytest.raises(IndexError):
        data[COUNT]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers(made: tuple[Path, dict[str, list[int]]]) -> None:
    where, ids = made
    data = TokenDataset(where)
    first = data[0]["ids"].tolist()  # a file is open before the fork
    seen = []
    for batch in DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork"):
        assert batch["ids"].shape[1:] == (tiny.TOKENS,)
        seen += batch["ids"].tolist()
    assert seen == [ids[key] for key in sorted(ids)]
    assert first == seen[0]


def test_an_unfinished_folder(tmp_path: Path) -> None:
    (tmp_path / "plan.arrow").touch()
    with pytest.raises(OutputError, match=r"has no manifest\.json, so its run is not finished"):
        TokenDataset(tmp_path)
