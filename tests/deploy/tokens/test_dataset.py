"""TokenDataset, also in a DataLoader's forked workers; pickled, as spawned ones get it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from coda_deploy.tokens import TokenDataset
from coda_runtime import InputError, OutputError
from coda_runtime.bulk import convert, tokenize
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


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_numbers(made: tuple[Path, dict[str, list[int]]], tmp_path: Path, form: str) -> None:
    """Of any library's integers; a mask is not taken for numbers."""
    where, _ = made
    if form == "npy":
        convert(where, tmp_path / "npy", "npy")
    data = TokenDataset(where if form == "parquet" else tmp_path / "npy")
    for number in (np.int64(3), torch.tensor(3), np.uint8(3)):
        item = data[number]  # type: ignore[index]
        assert torch.equal(item["ids"], data[3]["ids"])
        assert item["label"] == data[3]["label"]
    for numbers in ((3, 1), np.array([3, 1]), torch.tensor([3, -10]), range(3, 0, -2)):
        batch = data[numbers]  # type: ignore[index]
        assert torch.equal(batch["ids"], torch.stack([data[3]["ids"], data[1]["ids"]]))
    assert (data[[]]["ids"].shape, data[[]]["label"], data.__getitems__([])) == ((0, tiny.TOKENS), [], [])
    for wrong in (np.arange(COUNT) > 8, torch.arange(COUNT) > 8, [1.5], slice(1, 3), None, "ab", [[1, 2]]):
        with pytest.raises(InputError, match=r"does not say which images; expected their numbers.*flatnonzero"):
            data[wrong]  # type: ignore[index]
    with pytest.raises(InputError, match="the state has no 'epoch'"):
        data.load_state_dict({})


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
