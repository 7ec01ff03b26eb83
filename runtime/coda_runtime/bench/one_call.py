"""What happens when in one call: reading, decoding and resizing an image file, then each part, on one clock."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.base import Session, keeps_on_device
from ..images import Batches, open_rgb, resize
from ..tokenizer import Tokenizer
from .operations import FROM_FILES, OPERATIONS, Inputs
from .results import Span, Timeline
from .timing import Clock, Run

_CALLS, _SECONDS, _FEWEST = 9, 1.0, 3
MAX_SPANS = 64
"""Of a call in more pieces than that there is no timeline: nobody could read it."""


class _Spans:
    """Spans of one call as they come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock()
        self.found: list[Span] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note how long a block takes, and when."""
        before = self._clock()
        yield
        self.found.append({"name": name, "start_s": before - self._start, "seconds": self._clock() - before})

    def end(self) -> Timeline:
        """Return what was noted, and how long all of it took."""
        return {"seconds": self._clock() - self._start, "spans": self.found}


class _Noted:
    """A session that notes its runs among the spans of the call that is under way."""

    def __init__(self, part: str, session: Session, spans: list[_Spans]) -> None:
        self.device, self.batch = session.device, session.batch
        self._part, self._session, self._spans = part, session, spans

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with self._spans[-1].of(self._part):
            return self._session.run(batch)

    def close(self) -> None:
        self._session.close()


def trace(
    tok: Tokenizer,
    inputs: Inputs,
    batch: int,
    *,
    after: Run = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Timeline | None:
    """Return what happened when in the call of median length among a few, of `batch` images one after another.

    `after` is called after each of them. A file alone is read, decoded and resized apart; several are read by threads
    side by side, and are one span, "files". None where a part runs on a GPU: its calls return before the work is done.
    """
    on_device = False
    spans: list[_Spans] = []

    def watch(part: str, session: Session) -> Session:
        nonlocal on_device
        on_device |= part in OPERATIONS[inputs.operation] and keeps_on_device(session)
        return _Noted(part, session, spans)

    calls: list[Timeline] = []
    with tok.replaced_parts(watch):
        start = clock()
        while not on_device and len(calls) < _CALLS and (len(calls) < _FEWEST or clock() - start < _SECONDS):
            rows = inputs.rows(len(calls) * batch, (len(calls) + 1) * batch)
            spans.append(_Spans(clock))
            if inputs.operation == FROM_FILES:
                tok.encode(_read(rows.tolist(), tok, spans[-1]))
            else:
                inputs.call(rows)
            calls.append(spans[-1].end())
            after(len(calls))
    return median_timeline(calls)


def median_timeline(calls: Sequence[Timeline | None]) -> Timeline | None:
    """Return the one of median length; None for none, and for one of too many spans."""
    known = sorted((call for call in calls if call is not None), key=lambda call: call["seconds"])
    if not known or len(known[(len(known) - 1) // 2]["spans"]) > MAX_SPANS:
        return None
    return known[(len(known) - 1) // 2]


def _read(files: Sequence[str], tok: Tokenizer, spans: _Spans) -> npt.NDArray[np.uint8]:
    """Make images of files as `Tokenizer.encode` does."""
    size = tok.spec.image_size
    if len(files) > 1:
        with spans.of("files"):
            return Batches(list(files), size, tok.color).take(slice(0, len(files)))
    (file,) = files
    with spans.of("read file"):
        data = Path(file).read_bytes()
    with spans.of("decode file"):
        image = open_rgb(io.BytesIO(data), name=file, color=tok.color)
    with spans.of("resize"):
        return resize(image, size)[None]
