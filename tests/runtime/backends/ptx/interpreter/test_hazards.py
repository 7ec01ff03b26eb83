"""Races as `Words` finds them, beside the definition written out: every access against every earlier one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.backends.ptx.interpreter.faults import RaceError
from tests.runtime.backends.ptx.interpreter.hazards import Words

THREADS, BLOCKS, WORDS = 4, 2, 8
LANES = THREADS * BLOCKS


class Definition:
    """Accesses of two threads to a word race where one is a store that changes it, and no barrier is between."""

    def __init__(self) -> None:
        self.values = [0] * WORDS
        self.log: list[list[tuple[bool, int, int]]] = [[] for _ in range(WORDS)]

    def access(self, store: bool, accesses: Sequence[tuple[int, int, int]], epochs: Sequence[int]) -> bool:
        """Whether an instruction races: `accesses` are its words, as (lane, word, value)."""
        race = False
        for lane, word, value in accesses:
            for stored, other, epoch in self.log[word]:
                apart = lane // THREADS == other // THREADS and epoch < epochs[lane]
                changes = not (store and stored) or self.values[word] != value
                race |= lane != other and (store or stored) and changes and not apart
        if store:
            race |= len({(word, value) for _, word, value in accesses}) > len({word for _, word, _ in accesses})
        for lane, word, value in accesses:
            self.log[word].append((store, lane, epochs[lane]))
            self.values[word] = value if store else self.values[word]
        return race


@st.composite
def access(draw: st.DrawFn) -> tuple[bool, int, list[tuple[int, int, int]]]:
    """A store or a load of some lanes: its width in words, and (lane, row, value) of each."""
    width = draw(st.sampled_from([1, 2, 4]))
    lanes = draw(st.lists(st.integers(0, LANES - 1), min_size=1, max_size=4, unique=True))
    rows = st.integers(0, WORDS // width - 1)
    return draw(st.booleans()), width, [(lane, draw(rows), draw(st.integers(0, 2))) for lane in lanes]


# A barrier is the blocks that come to it.
STEPS = st.lists(access() | st.lists(st.integers(0, BLOCKS - 1), min_size=1, unique=True), max_size=12)


@settings(max_examples=300)
@given(steps=STEPS, shared=st.booleans())
def test_races_are_those_of_the_definition(steps: list, shared: bool) -> None:
    """Of shared memory, where each block has a half of the words, and of global memory."""
    words, definition, epochs = Words("memory", WORDS, THREADS), Definition(), np.zeros(LANES, np.int64)
    words.write(np.arange(WORDS), np.zeros((WORDS, 1), np.uint32), np.arange(WORDS) % LANES, epochs)
    words.begin(THREADS)
    for step in steps:
        if isinstance(step, list):
            passed = np.isin(np.arange(LANES) // THREADS, step)
            if shared:
                words.barrier(None if passed.all() else np.flatnonzero(passed))
            epochs = epochs + passed
            continue
        store, width, accesses = step
        if shared:
            each = WORDS // BLOCKS // width
            accesses = [(who, who // THREADS * each + at % each, what) for who, at, what in accesses]
        lane, row, value = (np.array(column, np.int64) for column in zip(*accesses, strict=True))
        found = False
        try:
            if store:
                words.write(row, np.repeat(value[:, None], width, 1).astype(np.uint32), lane, epochs[lane])
            else:
                words.read(row, width, lane, epochs[lane])
        except RaceError:
            found = True
        parts = [(who, width * at + place, what) for who, at, what in accesses for place in range(width)]
        assert found == definition.access(store, parts, epochs)
        if found:
            return
