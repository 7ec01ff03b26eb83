"""Ids in: checks, padding with the null token, and the scales they fall into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TokenError
from ..format.parts import IDS
from ..format.sizes import count_of
from ..format.spec import Spec
from ..io.counts import count
from ..io.masked_arrays import refuse_masked

Ids = npt.NDArray[np.int32]


def check_ids(ids: Any, spec: Spec) -> Ids:
    """Return ids as C-contiguous int32 [B,n], n a whole number of scales, each in [0, V); no copy if they are that.

    Any integer dtype is taken, since all values fit. Raises TokenError.
    """
    ids = _integers(ids)
    shape = list(ids.shape)
    if ids.ndim != 2:
        hint = ": add the batch axis, ids[None]" if ids.ndim == 1 else ""
        raise TokenError(f"ids has shape {shape}; expected [B,n]{hint}")
    if shape[0] == 0:
        raise TokenError(f"ids has shape {shape}: the batch is empty; pass at least one row")
    num_scales(shape[1], spec)
    return _in_range(ids, spec)


def num_scales(tokens: int, spec: Spec) -> int:
    """Return how many scales `tokens` ids an image are. Raises TokenError where they end inside one."""
    if tokens not in spec.prefix_lengths:
        raise TokenError(
            f"ids has {count(tokens, 'token')} a row; expected a whole number of scales, one of "
            f"{', '.join(map(str, spec.prefix_lengths))}"
        )
    return spec.prefix_lengths.index(tokens) + 1


def prefix_length(scales: int | None, spec: Spec) -> int:
    """Return how many tokens the first `scales` scales have, from 1, None being all. Raises TokenError for others."""
    lengths = spec.prefix_lengths
    if scales is None:
        return lengths[-1]
    if not 1 <= scales <= len(lengths):
        raise TokenError(
            f"--scales is {scales}, and this tokenizer has {count(len(lengths), 'scale')}; give 1 to {len(lengths)}"
        )
    return lengths[scales - 1]


def check_scale(ids: Any, spec: Spec, number: int, rows: int) -> Ids:
    """Return the ids of scale `number`, from 0, as C-contiguous int32 [rows,h*w], each in [0, V).

    They may be [rows,h,w] or [rows,h*w], of any integer dtype. Raises TokenError.
    """
    ids = _integers(ids)
    check_scale_shape(ids.shape, spec, number, rows)
    return _in_range(ids.reshape(rows, -1), spec)


def check_scale_shape(shape: Sequence[int], spec: Spec, number: int, rows: int) -> None:
    """Raise TokenError unless `shape` is [rows,h,w] or [rows,h*w] of scale `number`, from 0, and there is such a scale.

    Also for arrays of other libraries than numpy.
    """
    if number == len(spec.scales):
        raise TokenError(f"all {count(number, 'scale')} have been added; make another accumulator for the next images")
    scale = spec.scale_shapes[number]
    if tuple(shape) not in ((rows, *scale), (rows, count_of(scale))):
        raise TokenError(
            f"ids of scale {number + 1} of {len(spec.scales)} have shape {list(shape)}; expected "
            f"{[rows, *scale]} or {[rows, count_of(scale)]}"
        )


def pad_ids(ids: Ids, spec: Spec) -> Ids:
    """Fill int32 [B,n] up to [B,L] with the null token V, whose value is zero."""
    if ids.shape[1] == spec.num_tokens:
        return ids
    out = np.full(IDS.shape(spec, len(ids)), spec.vocab_size, dtype=IDS.dtype)
    out[:, : ids.shape[1]] = ids
    return out


def split_ids(ids: Ids, spec: Spec) -> list[Ids]:
    """Return views of int32 [B,n] as one [B,h,w] a scale, coarse to fine, row-major inside a scale."""
    out, start = [], 0
    for shape, stop in zip(spec.scale_shapes, spec.prefix_lengths, strict=True):
        if stop > ids.shape[1]:
            break
        out.append(ids[:, start:stop].reshape(len(ids), *shape))
        start = stop
    return out


def _integers(ids: Any) -> npt.NDArray[np.integer[Any]]:
    if not isinstance(ids, np.ndarray):
        kind = f"{type(ids).__module__}.{type(ids).__qualname__}".removeprefix("builtins.")
        advice = ": np.asarray(ids)" if isinstance(ids, (list, tuple)) else ""
        raise TokenError(f"ids is a {kind}; expected an int32 array [B,n]{advice}")
    refuse_masked(ids, "ids", TokenError)
    if ids.size == 0 and ids.dtype.kind not in "iu":  # of no values numpy makes float64
        raise TokenError(f"ids is empty, {ids.dtype} {list(ids.shape)}; expected int32 [B,n], at least one row")
    if ids.dtype.kind not in "iu":
        raise TokenError(f"ids is {ids.dtype}; expected int32, as encode returns it: other types may have lost digits")
    return ids


def _in_range(ids: npt.NDArray[np.integer[Any]], spec: Spec) -> Ids:
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        row, column = np.argwhere((ids < 0) | (ids >= spec.vocab_size))[0]
        raise TokenError(
            f"ids[{row}, {column}] is {ids[row, column]}; expected 0 to {spec.vocab_size - 1} (this tokenizer has "
            f"{count(spec.vocab_size, 'code')})"
        )
    return np.ascontiguousarray(ids, dtype=IDS.dtype)
