"""What a next-scale generator needs: its inputs under teacher forcing, and the sum that grows scale by scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coda_runtime import Accumulator, ArtifactError, ClosedError, InputError, TokenError, Tokenizer, load
from tests.runtime import tiny

shared_tok = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
id_arrays = hnp.arrays(np.int32, st.tuples(st.integers(1, 3), st.sampled_from([1, 5, 21])), elements=st.integers(0, 15))
IDS = np.arange(42, dtype=np.int32).reshape(2, 21) % tiny.CODES


@shared_tok
@given(ids=id_arrays)
def test_inputs_are_the_coarser_scales_seen_at_each_scale(tok: Tokenizer, ids: Any) -> None:
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    total, expected = torch.zeros(len(ids), 4, 4, 4), []
    grids = tok.split(ids)
    for grid, following in zip(grids, tiny.SCALES[1 : len(grids)], strict=False):
        values = torch.from_numpy(tok.codebook[grid]).permute(0, 3, 1, 2)
        total = total + interpolate(values, (4, 4), mode="bicubic")
        expected.append(interpolate(total, (following, following), mode="area").flatten(2).transpose(1, 2))
    found = tok.next_scale_inputs(ids)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((len(ids), ids.shape[1] - 1, 4), np.float32, True)
    if expected:
        np.testing.assert_allclose(found, torch.cat(expected, 1).numpy(), atol=1e-5)


@shared_tok
@given(ids=id_arrays, flat=st.booleans())
def test_generation_sees_what_training_saw(tok: Tokenizer, ids: Any, flat: bool) -> None:
    acc = tok.accumulator(len(ids))
    assert isinstance(acc, Accumulator)
    assert (acc.ids.shape, acc.ids.dtype, acc.latent.any()) == ((len(ids), 0), np.int32, np.False_)
    inputs = []
    for number, grid in enumerate(tok.split(ids), 1):
        inputs.append(acc.add(grid.reshape(len(ids), -1) if flat else grid))
        stop = tok.spec.prefix_lengths[number - 1]
        np.testing.assert_array_equal(acc.ids, ids[:, :stop])
        np.testing.assert_array_equal(acc.latent, tok.embed(ids[:, :stop]))
        np.testing.assert_array_equal(acc.image(), tok.decode(ids[:, :stop]))
    assert (inputs[-1] is None) == (ids.shape[1] == tiny.TOKENS)
    seen = tok.next_scale_inputs(ids)
    if ids.shape[1] > 1:
        np.testing.assert_array_equal(np.concatenate(inputs[:-1], 1), seen)


def test_tensors_are_taken_and_made(tok: Tokenizer) -> None:
    torch = pytest.importorskip("torch")
    acc = tok.accumulator(2)
    inputs = acc.add(torch.from_numpy(IDS[:, :1]).long())
    assert torch.from_dlpack(inputs).shape == (2, 4, 4)
    np.testing.assert_array_equal(tok.next_scale_inputs(torch.from_numpy(IDS)), tok.next_scale_inputs(IDS))
    assert torch.from_dlpack(acc.latent).shape == (2, 4, 4, 4)


def test_what_it_gave_is_the_caller_s(tok: Tokenizer) -> None:
    acc, other = tok.accumulator(2), tok.accumulator(2)
    for each in (acc, other):
        each.add(IDS[:, :1])
    acc.latent[:] = 7
    acc.ids[:] = 7
    np.testing.assert_array_equal(acc.add(IDS[:, 1:5]), other.add(IDS[:, 1:5]))
    np.testing.assert_array_equal(acc.image(), other.image())


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (IDS[:, :4], r"ids of scale 1 of 3 have shape \[2, 4\]; expected \[2, 1, 1\] or \[2, 1\]"),
        (IDS[:1, :1], r"shape \[1, 1\]; expected"),
        (IDS[:, 0], r"shape \[2\]; expected"),
        (IDS[:, :1].astype(np.float32), "ids is float32; expected int32"),
        (np.full((2, 1), tiny.CODES), r"ids\[0, 0\] is 16; expected 0 to 15"),
        ([[1], [2]], "ids is a list"),
    ],
    ids=["shape", "rows", "axes", "dtype", "range", "list"],
)
def test_what_is_not_taken_is_not_added(tok: Tokenizer, ids: Any, match: str) -> None:
    acc = tok.accumulator(2)
    with pytest.raises(TokenError, match=match):
        acc.add(ids)
    assert acc.ids.shape == (2, 0)
    acc.add(IDS[:, :1])


def test_its_ends(tok: Tokenizer) -> None:
    acc = tok.accumulator(2)
    with pytest.raises(TokenError, match=r"no scale has been added.*call add first"):
        acc.image()
    for grid in tok.split(IDS):
        acc.add(grid)
    with pytest.raises(TokenError, match="all 3 scales have been added; make another accumulator"):
        acc.add(IDS[:, :1])
    for B in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match=r"B is .*; expected how many images are generated"):
            tok.accumulator(B)  # type: ignore[arg-type]
    for ids in (IDS[:, :4], np.full((1, 21), 16)):
        with pytest.raises(TokenError):
            tok.next_scale_inputs(ids)


def test_a_bundle_that_cannot(tok: Tokenizer, minimal: Any) -> None:
    acc = tok.accumulator(1)
    acc.add(IDS[:1, :1])
    tok.close()
    for use in (lambda: tok.accumulator(1), lambda: tok.next_scale_inputs(IDS), acc.image):
        with pytest.raises(ClosedError):
            use()
    with load(minimal) as handmade:
        for use in (lambda: handmade.accumulator(1), lambda: handmade.next_scale_inputs(IDS)):
            with pytest.raises(ArtifactError, match="no value table"):
                use()
