"""A PyTorch dataset over a folder of tokens: rows by number."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coda_runtime import Spec
from coda_runtime.bulk.mapped import MappedTokens
from coda_runtime.bulk.stream import open_tokens
from coda_runtime.codes.sequences import Sequences
from coda_runtime.errors import InputError

NOT_SET = -1


class TokenDataset(Dataset[dict[str, Any]]):
    """The images of a folder of tokens, by number: what ``coda tokenize`` or ``coda tokens convert --to npy`` wrote.

    An item is ``{"ids": int64 [L]}``, coarse to fine and row-major inside a scale, and ``"label"`` where the folder
    has labels: int or str, None for an image without. Of a folder with several variants of each image, one is drawn
    each time an item is asked for: by PyTorch's generator, or after ``set_epoch`` by seed, epoch and number, so that it
    is the same however many workers there are. A sequence of numbers is a whole batch, which is fastest:
    ``DataLoader(data, sampler=BatchSampler(RandomSampler(data), 256, drop_last=False), batch_size=None)``. Goes to a
    DataLoader's workers, forked or spawned.

    Args:
        where: the folder. Opening reads its manifest alone. Parquet files are read 256 rows at a time, which suits
            neighbours; rows in random order are read many times faster from what ``coda tokens convert`` wrote, whose
            pages all workers share, or by ``TokenStream``.
        variant: "random", or the number of the one that is wanted.
        offset: added to all ids, where they stand behind another vocabulary.
        separators: {"begin": token, "scale": token, "end": token}, each of which may be left out: the items are then
            int64 [N] with these before, between the scales and after; ``sequences`` turns both ways.
        seed: of what is drawn after ``set_epoch``.

    Raises ``OutputError`` for a folder that is not finished, or is damaged, ``InputError`` for values that do not fit.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        variant: int | str = "random",
        offset: int = 0,
        separators: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        self._folder = open_tokens(where)
        self._labelled = "label" in self._folder.columns
        self._process = os.getpid()
        self._variant, self._seed = _variant(variant, self._folder.variants), seed
        self._epoch = torch.full((1,), NOT_SET, dtype=torch.int64).share_memory_()  # seen by workers that stay
        self.sequences = Sequences(self._folder.spec, offset, dict(separators or {}))

    @property
    def spec(self) -> Spec:
        """What the tokenizer computes: scales, vocab_size, num_tokens and the rest."""
        return self._folder.spec

    def set_epoch(self, epoch: int) -> None:
        """Draw the variants of an epoch, as of a DistributedSampler's; in workers that stay alive too."""
        self._epoch[0] = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, for torchdata's StatefulDataLoader and checkpoints; the sampler keeps its place."""
        return {"epoch": int(self._epoch[0])}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with a state. Raises InputError for one that is none."""
        if "epoch" not in state:
            raise InputError("the state has no 'epoch'; expected what the state_dict of a TokenDataset returned")
        self._epoch[0] = state["epoch"]

    def __len__(self) -> int:
        return len(self._folder) // self._folder.variants

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Any]:
        """Return an item, or for a sequence of numbers a batch: ``ids`` int64 [n,L], ``label`` a list.

        Raises IndexError, and InputError for what are no numbers.
        """
        asked = _numbers(index)
        if asked.ndim:
            ids, labels = self._read(asked)
            return {"ids": ids} if labels is None else {"ids": ids, "label": labels}
        return self._items(asked.reshape(1))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return some items at once, as a DataLoader asks for the items of a batch."""
        return self._items(_numbers(indices).reshape(-1))

    def _items(self, asked: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        ids, labels = self._read(asked)
        if labels is None:
            return [{"ids": row} for row in ids.unbind()]
        return [{"ids": row, "label": label} for row, label in zip(ids.unbind(), labels, strict=True)]

    def _read(self, asked: npt.NDArray[np.int64]) -> tuple[Tensor, list[Any] | None]:
        if self._process != os.getpid():
            # A forked worker must not move the offset at which its parent reads.
            self._folder, self._process = self._folder.reopened(), os.getpid()
        count = len(self)
        if asked.size and not -count <= asked.min() <= asked.max() < count:
            wrong = asked[(asked < -count) | (asked >= count)][0]
            raise IndexError(f"there is no image {wrong}; {self._folder!r} has {count}")
        rows = self._rows(asked % count)
        labels: list[Any] | None = None
        if isinstance(self._folder, MappedTokens):
            ids = self._folder.take(rows)
            labels = self._folder.labels(rows) if self._labelled else None
        else:
            found = [self._folder[row] for row in rows.tolist()]
            none = np.empty((0, self.spec.num_tokens), np.int32)
            ids = np.stack([row["ids"] for row in found]) if found else none
            labels = [row["label"] for row in found] if self._labelled else None
        return torch.from_numpy(self.sequences.pack(ids)), labels

    def _rows(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of the row of each image that is to be read."""
        variants = self._folder.variants
        if variants == 1:
            return images
        epoch = int(self._epoch[0])
        if self._variant is not None:
            drawn = np.int64(self._variant) + np.zeros_like(images)
        elif epoch == NOT_SET:
            drawn = torch.randint(variants, images.shape).numpy()
        else:
            drawn = np.array([_drawn(self._seed, epoch, image, variants) for image in images.tolist()], np.int64)
        rows: npt.NDArray[np.int64] = images * variants + drawn
        return rows


def _numbers(indices: Any) -> npt.NDArray[np.int64]:
    """Return the numbers of images, [n] or of one []. Raises InputError for a mask, a slice and others."""
    asked = np.asarray(indices)
    if asked.ndim > 1 or (asked.size and asked.dtype.kind not in "iu"):
        raise InputError(
            f"{reprlib.repr(indices)} does not say which images; expected their numbers, data[3] or data[[3, 1]]; for "
            "a slice give a range, for a mask numpy.flatnonzero(mask)"
        )
    return asked.astype(np.int64)


def _drawn(seed: int, epoch: int, image: int, variants: int) -> int:
    """Draw a variant by a hash of the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{image}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % variants


def _variant(asked: int | str, variants: int) -> int | None:
    if asked == "random":
        return None
    if isinstance(asked, int) and 0 <= asked < variants:
        return asked
    raise InputError(f'variant is {asked!r}; expected "random" or a number from 0 to {variants - 1}')
