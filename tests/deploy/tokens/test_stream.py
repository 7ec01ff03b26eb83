"""TokenStream: each image once an epoch over ranks and workers, and on from where a state was taken."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from benchmarks import token_folder
from coda_deploy.tokens import TokenDataset, TokenStream
from coda_runtime import InputError
from coda_runtime.bulk import convert, shards
from coda_runtime.images.variants import Variants
from tests.runtime import tiny

IMAGES = 29


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two variants each, in row groups of two images, labelled by number."""
    folder = tmp_path_factory.mktemp("stream") / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_GROUP", 4)
        flip = Variants(flip=True)
        token_folder.write(folder, tiny.SPEC, IMAGES, shard_size=8, variants=flip, label=lambda number: number)
    return folder


def labels(items: Any) -> list[int]:
    return [label for item in items for label in torch.as_tensor(item["label"]).reshape(-1).tolist()]


def test_items(where: Path) -> None:
    stream, known = TokenStream(where), [TokenDataset(where, variant=number) for number in range(2)]
    items = list(stream)
    assert (len(stream), len(items), stream.spec) == (IMAGES, IMAGES, tiny.SPEC)
    for item in items:
        assert item["ids"].dtype == torch.int64
        assert any(torch.equal(item["ids"], data[item["label"]]["ids"]) for data in known)
    assert sorted(labels(items)) == list(range(IMAGES))
    second = list(stream)
    assert labels(second) != labels(items)
    stream.set_epoch(0)
    assert labels(stream) == labels(items)
    assert labels(TokenStream(where, shuffle=False)) == list(range(IMAGES))


@pytest.mark.parametrize("batch", [1, 4, 29, 64])
def test_batches(where: Path, batch: int) -> None:
    stream = TokenStream(where, batch_size=batch, window=7)
    batches = list(DataLoader(stream, batch_size=None))
    sizes = [len(one["ids"]) for one in batches]
    assert len(stream) == len(sizes) == -(-IMAGES // batch)
    assert set(sizes[:-1]) <= {batch}
    assert labels(batches) == labels(TokenStream(where, window=7))


@settings(max_examples=25)
@given(batch=st.sampled_from([None, 1, 3, 5]), window=st.integers(1, 40), epoch=st.integers(0, 2), data=st.data())
def test_resumed(where: Path, batch: int | None, window: int, epoch: int, data: st.DataObject) -> None:
    stream = TokenStream(where, batch_size=batch, window=window)
    stream.set_epoch(epoch)
    whole = labels(stream) + labels(stream)
    stream.set_epoch(epoch)
    iterator = iter(stream)
    got: list[int] = []
    for _ in range(data.draw(st.integers(0, len(stream)))):
        got += labels([next(iterator)])
    state = stream.state_dict()
    again = TokenStream(where, batch_size=batch, window=window)
    again.load_state_dict(state)
    assert got + labels(again) + labels(again) == whole


def test_a_state_of_other_readers(where: Path) -> None:
    state = TokenStream(where).state_dict()
    for other in (TokenStream(where, seed=1), TokenStream(where, rank=1, world_size=2)):
        with pytest.raises(InputError, match=r"the state is of part 0 of 1 of 58 rows, seed 0, and this is part"):
            other.load_state_dict(state)


def test_a_state_that_is_none(where: Path) -> None:
    stream = TokenStream(where)
    with pytest.raises(InputError, match=r"the state has no 'given'; expected what the state_dict of a TokenStream"):
        stream.load_state_dict(TokenDataset(where).state_dict())
    for epoch in (-1, 2**32):
        with pytest.raises(InputError, match=f"epoch is {epoch}; expected one from 0 to 4294967295"):
            stream.set_epoch(epoch)
    for size in (0, -1, True, 2.5):
        with pytest.raises(InputError, match=f"batch_size is {size}; expected a whole number from 1, or None"):
            TokenStream(where, batch_size=size)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_state_is_not_for_workers_that_come_later(where: Path) -> None:
    """Each would leave out as many images of its own as were given of all."""
    stream = TokenStream(where)
    next(iter(stream))
    again = TokenStream(where)
    again.load_state_dict(stream.state_dict())
    for workers in (1, 2):
        loader = DataLoader(again, batch_size=None, num_workers=workers, multiprocessing_context="fork")
        with pytest.raises(InputError, match="the state was loaded before the workers were started"):
            list(loader)
    assert len(list(again)) == IMAGES - 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_that_starts_when_another_has_ended(where: Path) -> None:
    """Both read one epoch, whose images are there once each."""
    stream = TokenStream(where, batch_size=16)
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        worker_init_fn=lambda worker: time.sleep(worker / 2),
    )
    epochs = [labels(loader) for _ in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [len(epoch) for epoch in epochs] == [28] * 3
    assert len(set(map(tuple, epochs))) == 3
    stream.set_epoch(0)
    assert labels(loader) == epochs[0]


def test_labels_over_int64(tmp_path: Path) -> None:
    token_folder.write(tmp_path / "tokens", tiny.SPEC, 3, label=lambda number: pa.scalar(2**63 + number, pa.uint64()))
    stream = TokenStream(tmp_path / "tokens", batch_size=3, shuffle=False)
    assert next(iter(stream))["label"] == [2**63, 2**63 + 1, 2**63 + 2]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stays", [False, True])
def test_ranks_and_workers(where: Path, workers: int, stays: bool) -> None:
    """Each rank and worker has as many, nobody another's; the next epoch follows by itself."""
    if stays and not workers:
        pytest.skip("without workers there is none to stay")
    epochs: list[list[int]] = [[], []]
    for rank in range(2):
        loader = DataLoader(
            TokenStream(where, batch_size=3, rank=rank, world_size=2),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            persistent_workers=stays,
        )
        for epoch in epochs:
            found = labels(loader)
            assert len(found) == 28 // 2
            epoch += found
    for epoch in epochs:
        assert set(Counter(epoch).values()) == {1}
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_variants_of_the_dataset(where: Path, tmp_path: Path, form: str) -> None:
    if form == "npy":
        convert(where, tmp_path / "npy", "npy")
    data = TokenDataset(where if form == "parquet" else tmp_path / "npy")
    both = [TokenDataset(where, variant=number)[3]["ids"].tolist() for number in range(2)]
    assert len(data) == IMAGES
    assert {tuple(data[3]["ids"].tolist()) for _ in range(40)} == set(map(tuple, both))  # by PyTorch's generator
    drawn = []
    for epoch in range(12):
        data.set_epoch(epoch)
        items = [item["ids"].tolist() for item in data.__getitems__([3, -1])]
        assert items == [data[3]["ids"].tolist(), data[IMAGES - 1]["ids"].tolist()]
        drawn.append(both.index(items[0]))
    assert set(drawn) == {0, 1}
    state = data.state_dict()
    data.set_epoch(0)
    data.load_state_dict(state)
    assert data[3]["ids"].tolist() == both[drawn[-1]]
    assert data[5]["label"] == 5
    with pytest.raises(IndexError, match=f"there is no image {IMAGES}"):
        data[IMAGES]
    with pytest.raises(InputError, match='variant is 2; expected "random" or a number from 0 to 1'):
        TokenDataset(where, variant=2)


def test_a_language_models_tokens(where: Path) -> None:
    """A GPT-2 of Hugging Face takes the items as its input_ids."""
    from transformers import GPT2Config, GPT2LMHeadModel

    data = TokenDataset(where, variant=0, offset=50, separators={"begin": 1, "scale": 2, "end": 3})
    batch = torch.stack([data[number]["ids"] for number in range(2)])
    assert batch.shape == (2, tiny.TOKENS + 4)
    config = GPT2Config(
        vocab_size=data.sequences.vocab_size, n_positions=data.sequences.length, n_embd=8, n_layer=1, n_head=1
    )
    loss = GPT2LMHeadModel(config)(input_ids=batch, labels=batch).loss
    assert loss.item() > 0
    plain = torch.stack([TokenDataset(where, variant=0)[number]["ids"] for number in range(2)])
    assert torch.equal(torch.from_numpy(data.sequences.unpack(batch.numpy())).long(), plain)
    streamed = next(iter(TokenStream(where, offset=50, separators={"end": 3}, shuffle=False)))
    assert streamed["ids"][-1] == 3
    assert torch.equal(streamed["ids"][:-1] - 50, plain[0])
