"""A PyTorch dataset over a folder of tokens."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.utils.data import Dataset

from coda_runtime import Spec
from coda_runtime.bulk import TokenFolder


class TokenDataset(Dataset[dict[str, Any]]):
    """The rows of a folder that ``coda tokenize`` finished, by number.

    An item is ``{"ids": int64 [L]}``, coarse to fine and row-major inside a scale, and ``"label"`` where the folder
    has labels: int or str, None for an image without. Starting reads only manifest.json; items are read when they are
    asked for, 256 neighbours at a time. Goes to a DataLoader's workers, forked or spawned.

    Raises ``OutputError`` for a folder that is not finished, or is damaged.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self._folder = TokenFolder(where)
        self._labelled = "label" in self._folder.columns
        self._process = os.getpid()

    @property
    def spec(self) -> Spec:
        """What the tokenizer computes: scales, vocab_size, num_tokens and the rest."""
        return self._folder.spec

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._process != os.getpid():
            # A forked worker must not move the offset at which its parent reads.
            self._folder, self._process = self._folder.reopened(), os.getpid()
        row = self._folder[index]
        item: dict[str, Any] = {"ids": torch.from_numpy(row["ids"].astype("int64"))}
        return {**item, "label": row["label"]} if self._labelled else item
