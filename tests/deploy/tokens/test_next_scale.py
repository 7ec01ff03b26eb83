"""The sums that a next-scale generator sees, in NumPy and PyTorch, beside those of the unfolded quantizer."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coda_deploy.errors import ConfigError
from coda_deploy.tokenizer.quantizer import ResidualQuantizer, pool_rows, spread_rows
from coda_deploy.tokens import NextScale
from coda_runtime.codes.scale_sums import next_scale_inputs, sums
from coda_runtime.errors import InputError, TokenError
from coda_runtime.format.sizes import scales_of
from tests.export.kernels.cases import golden_quantizer, make_spec
from tests.golden import Golden, weight

pytestmark = pytest.mark.numeric

SCALES = ((1, 1), (2, 3), (3, 5), (6, 10))
SPEC = make_spec(50, SCALES, 4)
TABLE = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(0, 50, (2, SPEC.num_tokens), generator=torch.Generator().manual_seed(1))


def unfolded(quantizer: ResidualQuantizer, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs [B,L-h0*w0,C] and latent [B,C,h,w] by the quantizer's own resampling."""
    values, shapes = quantizer.search.values(quantizer.codebook), quantizer.shapes
    total, inputs = torch.zeros(len(ids), values.shape[1], *shapes[-1]), []
    for number, grid in enumerate(quantizer.split(ids)):
        total = total + spread_rows(values[grid.flatten()], shapes[number], shapes[-1])
        if number + 1 < len(shapes):
            inputs.append(pool_rows(total, shapes[number + 1]).unflatten(0, (len(ids), -1)))
    return torch.cat(inputs, 1), total


def test_golden_cases(golden: Golden) -> None:
    """Of the folded tables, as a bundle has them, and the unfolded tokenizer's weights."""
    folded = golden_quantizer(golden)
    spec, table = folded.spec, folded.search.values
    quantizer = ResidualQuantizer(spec.vocab_size, spec.latent_channels, spec.scales, 32, "rms", 1e-5)
    quantizer.requires_grad_(False)
    for name, parameter in quantizer.search.named_parameters():
        parameter.copy_(torch.from_numpy(weight(f"attn.{name}", list(parameter.shape))))
    quantizer.codebook.copy_(torch.from_numpy(weight("codebooks.weight", list(quantizer.codebook.shape))))
    ids = torch.from_numpy(golden.ids)
    inputs, latent = unfolded(quantizer, ids.long())

    in_torch = NextScale(table, spec)
    in_numpy = next_scale_inputs(golden.ids, spec, table.numpy())
    for found in (in_torch(ids), torch.from_numpy(in_numpy)):
        torch.testing.assert_close(found, inputs, atol=1e-5, rtol=0)
    torch.testing.assert_close(in_torch.embed(ids), latent, atol=1e-5, rtol=0)
    acc = in_torch.accumulator(len(ids))
    steps = [acc.add(scale) for scale in in_torch.split(ids)]
    assert steps.pop() is None
    assert torch.equal(torch.cat(steps, 1), in_torch(ids))
    assert torch.equal(acc.latent, in_torch.embed(ids))
    assert torch.equal(acc.ids, ids)


@settings(max_examples=20)
@given(data=st.data())
def test_numpy_and_torch_agree_at_every_schedule(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=1, max_size=4))
    shapes, shape = [], (data.draw(st.integers(1, 2)), 1)
    for down, across in [(0, 0), *steps]:
        shape = shape[0] + down, shape[1] + across
        shapes.append(shape)
    spec = make_spec(50, scales_of(shapes), 4)
    ids = torch.randint(0, 50, (2, data.draw(st.sampled_from(spec.prefix_lengths))))
    found = NextScale(TABLE, spec)(ids)
    assert found.shape == (2, ids.shape[1] - spec.prefix_lengths[0], 4)
    expected = next_scale_inputs(ids.int().numpy(), spec, TABLE.numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    *_, latent = sums(ids.int().numpy(), spec, TABLE.numpy())
    np.testing.assert_allclose(NextScale(TABLE, spec).embed(ids).numpy(), latent, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype: torch.dtype) -> None:
    module = NextScale(TABLE, SPEC)
    exact, changed = module(IDS), copy.deepcopy(module).to(dtype)
    acc = changed.accumulator(2)
    found = [acc.add(scale) for scale in changed.split(IDS)][:-1]
    assert {part.dtype for part in found} == {changed.embed(IDS).dtype} == {dtype}
    assert acc.latent.dtype == torch.promote_types(dtype, torch.float32), "the sum is not rounded from scale to scale"
    assert torch.equal(torch.cat(found, 1), changed(IDS))
    torch.testing.assert_close(
        changed(IDS), exact.to(dtype), atol=40 * max(torch.finfo(kind).eps for kind in (dtype, torch.float32)), rtol=0
    )


def test_autocast_rounds_nothing() -> None:
    module = NextScale(TABLE, SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(IDS), module(IDS.int()))
        found = module(IDS)
    assert torch.equal(found, module(IDS))


def test_it_goes_where_the_module_goes() -> None:
    module = NextScale(TABLE, SPEC).to("meta")
    acc = module.accumulator(2)
    assert {part.device.type for part in (module(IDS.to("meta")), acc.latent, acc.ids)} == {"meta"}


@pytest.mark.parametrize("images", [0, -1, True, 2.0, None])
def test_no_number_of_images(images: Any) -> None:
    with pytest.raises(InputError, match=rf"^B is {images}; expected how many images are generated"):
        NextScale(TABLE, SPEC).accumulator(images)


def test_it_belongs_to_no_state_dict() -> None:
    module = NextScale(TABLE, SPEC)
    assert (dict(module.state_dict()), list(module.parameters())) == ({}, [])
    assert torch.equal(pickle.loads(pickle.dumps(module))(IDS), module(IDS))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # Inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_inside_torch_compile(backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inductor builds a program by g++, which takes a minute on two busy cores."""
    # A cache of its own: Inductor's key does not know ATEN_CPU_CAPABILITY, and g++ fails on AVX2's program held to SSE.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    module = NextScale(TABLE, SPEC)

    @torch.compile(fullgraph=True, backend=backend)
    def model(ids: Tensor) -> Tensor:
        latent, first = module.step(module.start(2), ids[:, :1], 0)
        latent, second = module.step(latent, ids[:, 1:7].unflatten(1, (2, 3)), 1)
        assert first is not None
        assert second is not None
        return torch.cat([module(ids) * 2, first, second], 1) + module.embed(ids).mean()

    expected = torch.cat([module(IDS) * 2, module(IDS[:, :22])], 1) + module.embed(IDS).mean()
    torch.testing.assert_close(model(IDS), expected)


def test_gradients_reach_what_comes_after() -> None:
    module, weights = NextScale(TABLE, SPEC), torch.ones(4, requires_grad=True)
    (module(IDS) * weights).sum().backward()
    torch.testing.assert_close(weights.grad, module(IDS).sum((0, 1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32], ids=str)
def test_ids_of_any_integers(dtype: torch.dtype) -> None:
    module = NextScale(TABLE, SPEC)
    acc = module.accumulator(2)
    for scale in module.split(IDS.to(dtype)):
        acc.add(scale)
    assert torch.equal(module(IDS.to(dtype)), module(IDS))
    assert torch.equal(acc.latent, module.embed(IDS))
    assert torch.equal(acc.ids.long(), IDS)


@pytest.mark.parametrize("wrong", [-1, -50, 50])
def test_an_id_that_is_no_code(wrong: int) -> None:
    ids = IDS.clone()
    ids[1, 0] = wrong
    with pytest.raises(IndexError):
        NextScale(TABLE, SPEC)(ids)


def test_scales_drawn_into_the_same_memory() -> None:
    module = NextScale(TABLE, SPEC)
    acc, drawn = module.accumulator(2), torch.empty(2, 60, dtype=torch.int64)
    for scale in module.split(IDS):
        into = drawn[:, : scale.shape[1]]
        into.copy_(scale)
        acc.add(into)
    assert torch.equal(acc.ids, IDS)


def test_what_it_does_not_take() -> None:
    module = NextScale(TABLE, SPEC)
    with pytest.raises(
        ConfigError, match=r"the codebook is \[49, 4\], expected \[50, 4\].*tok\.codebook and tok\.spec"
    ):
        NextScale(TABLE[1:], SPEC)
    with pytest.raises(TokenError, match="80 tokens a row; expected a whole number of scales, one of 1, 7, 22, 82"):
        module(IDS[:, :80])
    with pytest.raises(TokenError, match=r"shape \[82\]; expected \[B,n\]"):
        module(IDS[0])
    acc = module.accumulator(2)
    for ids in (IDS.float(), IDS.bool()):
        with pytest.raises(TokenError, match=f"ids is {ids.dtype}; expected int64 or another integer dtype"):
            module(ids)
        with pytest.raises(TokenError, match=f"ids is {ids.dtype}; expected int64 or another integer dtype"):
            acc.add(ids[:, :1])
    with pytest.raises(TokenError, match=r"ids of scale 1 of 4 have shape \[2, 6\]; expected \[2, 1, 1\] or \[2, 1\]"):
        acc.add(IDS[:, 1:7])
    assert acc.ids.shape == (2, 0)
    for scale in module.split(IDS):
        acc.add(scale)
    with pytest.raises(TokenError, match="all 4 scales have been added"):
        acc.add(IDS[:, :1])
