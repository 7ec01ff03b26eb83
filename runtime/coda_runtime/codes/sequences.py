"""Ids as a language model's tokens: moved behind its own vocabulary, with separators between scales and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, TokenError
from ..format.sizes import count_of
from ..format.spec import Spec
from ..io.counts import count
from ..io.masked_arrays import refuse_masked

BEGIN, SCALE, END = "begin", "scale", "end"


@dataclass(frozen=True)
class Sequences:
    """How rows of ids become rows of a language model's tokens, and back.

    Args:
        spec: of the tokenizer: its scales and vocabulary.
        offset: what is added to every id, the size of the text's vocabulary where the codes come behind it.
        separators: tokens of the model that stand in a row: "begin" before it, "scale" between two scales, "end" after
            it; each may be left out. None may lie among the codes, [offset, offset + vocab_size).

    Raises InputError for values that do not fit.
    """

    spec: Spec
    offset: int = 0
    separators: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_whole(self.offset):
            raise InputError(f"offset is {self.offset!r}; expected 0 or more, a whole number")
        for name, token in self.separators.items():
            if name not in (BEGIN, SCALE, END):
                raise InputError(f'separators has {name!r}; expected "{BEGIN}", "{SCALE}" and "{END}"')
            if not _is_whole(token):
                raise InputError(
                    f"the separator {name!r} is {token!r}; expected the number of a token, from 0; leave out what the "
                    "model has no token for"
                )
            if self.offset <= token < self.offset + self.spec.vocab_size:
                raise InputError(
                    f"the separator {name!r} is {token}; expected a token outside the codes, which are {self.offset} "
                    f"to {self.offset + self.spec.vocab_size - 1}"
                )

    @property
    def length(self) -> int:
        """Tokens in a row."""
        inner = len(self.spec.scale_shapes) - 1 if SCALE in self.separators else 0
        return self.spec.num_tokens + inner + (BEGIN in self.separators) + (END in self.separators)

    @property
    def vocab_size(self) -> int:
        """How many tokens a model needs that knows all of them."""
        return max(self.offset + self.spec.vocab_size, *(token + 1 for token in self.separators.values()), 0)

    def pack(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Turn ids, whole numbers [..., L], into tokens int64 [..., length]. Raises TokenError for others."""
        _check_array(ids, "ids")
        if ids.shape[-1] != self.spec.num_tokens:
            raise TokenError(
                f"ids has {count(ids.shape[-1], 'token')} a row; expected all {self.spec.num_tokens} of an image"
            )
        if not self.separators:
            plain = ids.astype(np.int64)
            if self.offset:
                plain += self.offset
            return plain
        out = np.empty((*ids.shape[:-1], self.length), np.int64)
        places, fixed = self._layout(len(self.spec.scale_shapes), whole=True)
        out[..., places] = ids
        out[..., places] += self.offset
        for place, token in fixed.items():
            out[..., place] = token
        return out

    def unpack(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Turn tokens [..., n], a whole row or its first scales, into ids int32 [..., L or fewer].

        Raises TokenError where n ends inside a scale, a separator is another token, or a code is none.
        """
        _check_array(tokens, "tokens")
        found = tokens.shape[-1]
        scales = len(self.spec.scale_shapes)
        for first in range(1, scales + 1):
            for whole in (False, True) if first == scales else (False,):
                places, fixed = self._layout(first, whole=whole)
                if len(places) + len(fixed) == found:
                    return self._ids(tokens, places, fixed)
        raise TokenError(
            f"a row has {count(found, 'token')}; expected {self.length}, or as many as its first scales have"
        )

    def _ids(
        self, tokens: npt.NDArray[Any], places: npt.NDArray[np.intp], fixed: Mapping[int, int]
    ) -> npt.NDArray[np.int32]:
        for place, token in fixed.items():
            if (tokens[..., place] != token).any():
                raise TokenError(
                    f"token {place} of a row is {tokens[..., place].ravel()[0]}; expected the separator {token}"
                )
        ids = tokens[..., places].astype(np.int64) - self.offset
        if ids.size and (ids.min() < 0 or ids.max() >= self.spec.vocab_size):
            low, high = self.offset, self.offset + self.spec.vocab_size - 1
            raise TokenError(f"a row has a token that is no code; expected {low} to {high} between the separators")
        return ids.astype(np.int32)

    def _layout(self, scales: int, *, whole: bool) -> tuple[npt.NDArray[np.intp], dict[int, int]]:
        """Return the places of the ids of the first scales in a row, and {place: token} of its separators."""
        fixed: dict[int, int] = {}
        at = 0
        if BEGIN in self.separators:
            fixed[at] = self.separators[BEGIN]
            at += 1
        places = []
        for number, shape in enumerate(self.spec.scale_shapes[:scales]):
            if number and SCALE in self.separators:
                fixed[at] = self.separators[SCALE]
                at += 1
            places.append(np.arange(at, at + count_of(shape)))
            at += count_of(shape)
        if whole and END in self.separators:
            fixed[at] = self.separators[END]
        return np.concatenate(places), fixed


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(0 <= value < 2**62)


def _check_array(array: Any, name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or not array.ndim:
        kind = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise TokenError(f"{name} is {kind}; expected an array of numpy, rows of whole numbers: numpy.asarray({name})")
    refuse_masked(array, name, TokenError)
