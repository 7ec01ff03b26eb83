"""What happens when in one call: reading, decoding and resizing an image file, then each part, on one clock."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..images import Batches, open_rgb, resize
from ..tokenizer import Tokenizer
from .breakdown import Watch, timed_session
from .operations import FROM_FILES, Inputs
from .results import Span, Timeline
from .timing import Clock, Run

_CALLS, _SECONDS, _FEWEST = 5, 1.0, 3
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


class _Calls:
    """Notes what happens in the call that is under way, and keeps those before."""

    def __init__(self, clock: Clock) -> None:
        self.timelines: list[Timeline] = []
        self._clock = clock
        self._spans = _Spans(clock)

    def begin(self) -> None:
        """Begin a call."""
        self._spans = _Spans(self._clock)

    def of(self, name: str) -> AbstractContextManager[None]:
        """Note how long a block takes, and when."""
        return self._spans.of(name)

    def end(self) -> None:
        """End the call."""
        self.timelines.append(self._spans.end())


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
    side by side, and are one span, "files". On a GPU every copy and every part is waited for before the next begins, as
    in `breakdown`. None for a call of more than `MAX_SPANS`.
    """
    calls = _Calls(clock)
    with tok.replaced_parts(lambda part, session: timed_session(part, session, calls)):
        start = clock()
        for number in range(_CALLS):
            # Outside of the call, as `batches` has them.
            rows = inputs.placed(number * batch, (number + 1) * batch)
            calls.begin()
            if inputs.operation == FROM_FILES:
                tok.encode(_read(rows.tolist(), tok, calls))
            else:
                inputs.call(rows)
            calls.end()
            after(number + 1)
            if clock() - start >= _SECONDS and number + 1 >= _FEWEST:
                break
    return median_timeline(calls.timelines)


def median_timeline(calls: Sequence[Timeline | None]) -> Timeline | None:
    """Return the one of median length; None for none, and for one of too many spans."""
    known = sorted((call for call in calls if call is not None), key=lambda call: call["seconds"])
    if not known or len(known[(len(known) - 1) // 2]["spans"]) > MAX_SPANS:
        return None
    return known[(len(known) - 1) // 2]


def _read(files: Sequence[str], tok: Tokenizer, spans: Watch) -> npt.NDArray[np.uint8]:
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
