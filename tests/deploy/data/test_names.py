from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from coda_deploy.data.names import PackedNames

# Surrogates too: they stand for the bytes of a file name that are not UTF-8.
NAMES = st.lists(st.text(st.characters(exclude_characters="\0")))


@given(names=NAMES)
def test_names_come_out_as_they_went_in(names: list[str]) -> None:
    packed = pickle.loads(pickle.dumps(PackedNames(iter(names))))
    assert [packed[index] for index in range(len(packed))] == names
