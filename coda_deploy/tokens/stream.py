"""A PyTorch dataset over a folder of tokens: a stream, shuffled, shared among ranks and workers, and resumable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from coda_runtime import Spec
from coda_runtime.bulk.stream import WINDOW, Order, Piece, open_tokens
from coda_runtime.codes.sequences import Sequences
from coda_runtime.errors import InputError
from coda_runtime.io.counts import count
from coda_runtime.io.json_fields import is_int

_AT_ONCE = 256  # items that are turned into tensors together
_MAX_WORKERS = 4096


class TokenStream(IterableDataset[dict[str, Any]]):
    """The images of a folder of tokens, each once an epoch, in an order drawn by seed and epoch.

    Items are those of ``TokenDataset``; with ``batch_size`` they are whole batches, ``{"ids": int64 [n,L]}`` and
    ``"label"``, int64 [n] or a list, for ``DataLoader(stream, batch_size=None)``, the fastest way. Row groups are
    shuffled, and then the images of some 64 of them among each other, so that every byte is read once and little is in
    memory. Of several variants one is drawn. Labels are a list where one is text, None or more than int64 holds.

    Ranks and workers have each their own images, and equally many: up to ranks x workers - 1 are left out, others in
    each epoch. When all have been read, the next iteration is the next epoch; ``set_epoch`` chooses another.

    ``state_dict`` and ``load_state_dict`` are what torchdata's StatefulDataLoader asks of a dataset; without workers
    they are right in any program. A state is resumed without reading what came before it, by the same number of ranks
    and workers.

    Args:
        where: what ``coda tokenize`` or ``coda tokens convert --to npy`` wrote.
        batch_size: images in a batch, the last of each worker may have fewer; None gives single items.
        shuffle: False keeps the order of the folder, and of several variants takes the first.
        seed: of the order.
        rank: of this process, and ``world_size`` of all; None asks ``torch.distributed``, or is one process.
        offset: as in ``TokenDataset``.
        separators: as in ``TokenDataset``.
        window: images that are in memory and shuffled together.

    Raises ``OutputError`` for a folder that is not finished, or is damaged, ``InputError`` for values that do not fit.
    """

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        offset: int = 0,
        separators: Mapping[str, int] | None = None,
        window: int = WINDOW,
    ) -> None:
        if batch_size is not None and not (is_int(batch_size) and batch_size >= 1):
            raise InputError(f"batch_size is {batch_size!r}; expected a whole number from 1, or None for single items")
        self._folder, self._process = open_tokens(where), os.getpid()
        self._batch, self._shuffle, self._seed, self._window = batch_size, shuffle, seed, window
        together = distributed.is_available() and distributed.is_initialized()
        self._rank = (distributed.get_rank() if together else 0) if rank is None else rank
        self._world = (distributed.get_world_size() if together else 1) if world_size is None else world_size
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # of all workers, so that the next ones go on
        self._ended = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()  # what follows the epoch each ended
        self._now, self._given = 0, 0
        self._resumed: int | None = None  # the process that loaded a state
        self.sequences = Sequences(self._folder.spec, offset, dict(separators or {}))
        self._order(0)

    @property
    def spec(self) -> Spec:
        """What the tokenizer computes: scales, vocab_size, num_tokens and the rest."""
        return self._folder.spec

    def __len__(self) -> int:
        """Return the items of this rank in an epoch, without workers: images or batches."""
        images = len(self._order(0, workers=1, worker=0))
        return images if self._batch is None else -(-images // self._batch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. Raises InputError unless it is from 0 to 2^32 - 1."""
        self._order(epoch)
        self._epoch[0] = epoch
        self._ended.zero_()
        self._resumed = None

    def state_dict(self) -> dict[str, int]:
        """Return where this worker is: its epoch and the images that it has given."""
        worker, workers = _worker()
        return {"epoch": self._now, "given": self._given, **self._layout(worker, workers)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the next iteration where a state was taken. Raises InputError for one of other readers."""
        mine = self._layout(*_worker())
        missing = [name for name in ("epoch", "given", *mine) if name not in state]
        if missing:
            raise InputError(f"the state has no {missing[0]!r}; expected what the state_dict of a TokenStream returned")
        if {name: state[name] for name in mine} != mine:
            raise InputError(
                f"the state is of {_readers(state)}, and this is {_readers(mine)}; go on with the folder, the seed and "
                "the numbers of ranks and workers that it was saved with, or begin an epoch with set_epoch"
            )
        self._now, self._given, self._resumed = int(state["epoch"]), int(state["given"]), os.getpid()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._process != os.getpid():
            # A forked worker must not move the offset at which its parent reads.
            self._folder, self._process = self._folder.reopened(), os.getpid()
        if self._resumed is None:
            self._now, self._given = int(self._epoch[0]), 0
        elif self._resumed != os.getpid():
            raise InputError(
                "the state was loaded before the workers were started, each of which has one of its own; let "
                "torchdata's StatefulDataLoader save and load it, or read without workers"
            )
        self._resumed = None
        self._ended[_worker()[0]] = 0
        if self._given == len(self._order(self._now)):
            self._end()  # a loader that resumes does not ask a worker that had given all
        return self._items()

    def _items(self) -> Iterator[dict[str, Any]]:
        waiting: list[Piece] = []
        for piece in self._order(self._now).pieces(self._given):
            size, start = self._batch or _AT_ONCE, 0
            while start < len(piece.ids):
                missing = size - sum(len(some.ids) for some in waiting)
                some = slice(start, start + missing)
                waiting.append(Piece(piece.ids[some], None if piece.labels is None else piece.labels[some]))
                start += missing
                if start <= len(piece.ids):
                    yield from self._given_of(waiting)
        if waiting:
            yield from self._given_of(waiting)
        self._end()

    def _end(self) -> None:
        """Begin the next epoch, if all workers have come to the end of this one: some may not have begun it yet."""
        worker, workers = _worker()
        self._ended[worker] = self._now + 1
        if bool((self._ended[:workers] == self._now + 1).all()):
            self._epoch[0] = self._now + 1

    def _given_of(self, waiting: list[Piece]) -> Iterator[dict[str, Any]]:
        """Yield what waits, as one batch or item by item, and count what is given."""
        tokens = [torch.from_numpy(self.sequences.pack(piece.ids)) for piece in waiting]
        ids = tokens[0] if len(tokens) == 1 else torch.cat(tokens)
        labels = None if waiting[0].labels is None else [label for piece in waiting for label in piece.labels or ()]
        waiting.clear()
        if self._batch is None:
            for number, row in enumerate(ids.unbind()):
                self._given += 1
                yield {"ids": row} if labels is None else {"ids": row, "label": labels[number]}
            return
        self._given += len(ids)
        if labels is None:
            yield {"ids": ids}
        else:
            whole = all(isinstance(label, int) and label < 2**63 for label in labels)
            yield {"ids": ids, "label": torch.tensor(labels) if whole else labels}

    def _order(self, epoch: int, worker: int | None = None, workers: int | None = None) -> Order:
        if worker is None or workers is None:
            worker, workers = _worker()
        part, parts = self._rank * workers + worker, self._world * workers
        return Order(self._folder, epoch, part, parts, self._seed, self._shuffle, parts > 1, self._window)

    def _layout(self, worker: int, workers: int) -> dict[str, int]:
        return {
            "part": self._rank * workers + worker,
            "parts": self._world * workers,
            "rows": len(self._folder),
            "seed": self._seed,
            "window": self._window,
            "shuffle": int(self._shuffle),
        }


def _worker() -> tuple[int, int]:
    """Return the number of this DataLoader worker, and of how many."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _readers(state: Mapping[str, int]) -> str:
    return f"part {state['part']} of {state['parts']} of {count(state['rows'], 'row')}, seed {state['seed']}"
