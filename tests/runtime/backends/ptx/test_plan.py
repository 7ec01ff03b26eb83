from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime.backends.ptx import Kernel, KernelSet, Plan, make_plan
from coda_runtime.backends.ptx.plan import Launch, window
from coda_runtime.codes.resample import area_matrix
from coda_runtime.errors import ArtifactError, InputError
from coda_runtime.format.spec import Spec
from tests.runtime.backends.host_kernels import kernel_set

FLUX = Spec("flux", 256, 8, 16, 65536, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), 2240)
SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)


def named(launch: Launch) -> dict[str, object]:
    return {name: value for (name, _), value in zip(launch.kernel.arguments, launch.arguments, strict=True)}


def test_four_launches_a_scale_and_no_subtract_at_the_end() -> None:
    plan = make_plan(kernel_set(SPEC, 32), SPEC, 2, eps=0.25)
    assert [launch.kernel.function for launch in plan.launches] == ["pool", "search", "merge", "subtract"] * 2 + [
        "pool", "search", "merge",
    ]  # fmt: skip
    arguments = [named(launch) for launch in plan.launches]
    # The latent is only read: the first subtraction writes elsewhere.
    assert [a["residual"] for a in arguments if "residual" in a] == ["latent", "residual", "residual"]
    assert [(a["before"], a["after"]) for a in arguments if "after" in a] == [("latent", "residual"), ("residual",) * 2]
    assert [(a["places"], a["start"]) for a in arguments if "start" in a] == [(1, 0), (4, 1), (16, 5)]
    assert [a["taps"] for a in arguments if "taps" in a] == ["taps.1", "taps.2"]
    assert {a["eps"] for a in arguments if "eps" in a} == {0.25}
    assert plan.buffers["latent"].shape == plan.buffers["residual"].shape == (2, 3, 4, 4)
    assert (plan.buffers["ids"].shape, plan.buffers["ids"].dtype) == ((2, 21), "int32")
    assert plan.launches[0].block == (128, 1, 1)


def coverage(plan: Plan, spec: Spec) -> None:
    for launch in plan.launches:
        a, sizes = named(launch), launch.kernel.sizes
        block = sizes.get("BLOCK_TOKENS") or sizes["BLOCK_POINTS"]
        count = a.get("tokens") or a["points"]
        assert isinstance(count, int)
        assert (launch.grid[0] - 1) * block < count <= launch.grid[0] * block
        if launch.kernel.function == "search":
            splits, chunks = a["splits"], a["chunks"]
            assert isinstance(splits, int)
            assert isinstance(chunks, int)
            codes = sizes["CODES"]
            # Every code belongs to one split, and no split is empty.
            assert launch.grid[1] == splits
            assert (splits - 1) * chunks * sizes["BLOCK_CODES"] < codes <= splits * chunks * sizes["BLOCK_CODES"]
            assert count * splits <= plan.buffers["scores"].shape[0] == plan.buffers["codes"].shape[0]
        if launch.kernel.function == "merge":
            splits = a["splits"]
            assert isinstance(splits, int)
            assert splits <= sizes["SPLITS"]
        if launch.kernel.function == "pool":
            side = a["side"]
            assert isinstance(side, int)
            assert window(spec.latent_size, side) <= sizes["WINDOW"]
        assert count <= plan.buffers["rows"].shape[0] or launch.kernel.function == "subtract"


@given(
    sides=st.sets(st.integers(1, 16), min_size=1, max_size=5).map(lambda sides: tuple(sorted(sides))),
    channels=st.integers(1, 40),
    vocab_size=st.integers(1, 5000),
    batch=st.integers(1, 70),
    programs=st.integers(1, 2000),
)
def test_every_token_code_and_point_is_reached(
    sides: tuple[int, ...], channels: int, vocab_size: int, batch: int, programs: int
) -> None:
    spec = Spec("any", 8 * sides[-1], 8, channels, vocab_size, sides, sum(side * side for side in sides))
    kernels = kernel_set(spec, -(-vocab_size // 8) * 8)
    coverage(make_plan(kernels, spec, batch, programs=programs), spec)


def test_few_tokens_split_the_table_more() -> None:
    kernels = kernel_set(FLUX, 65536)
    wide = dataclasses.replace(kernels.of("merge")[0], sizes={**kernels.of("merge")[0].sizes, "SPLITS": 256})
    kernels = dataclasses.replace(kernels, kernels=(*kernels.kernels, dataclasses.replace(wide, entry="merge_s256")))
    wide_pool = dataclasses.replace(kernels.of("pool")[0], sizes={**kernels.of("pool")[0].sizes, "WINDOW": 32})
    kernels = dataclasses.replace(kernels, kernels=(*kernels.kernels, dataclasses.replace(wide_pool, entry="pool_w32")))
    plan = make_plan(kernels, FLUX, 1, programs=500)
    coverage(plan, FLUX)
    splits = [launch.grid[1] for launch in plan.launches if launch.kernel.function == "search"]
    blocks = [launch.grid[0] * launch.grid[1] for launch in plan.launches if launch.kernel.function == "search"]
    assert splits == sorted(splits, reverse=True)
    assert min(blocks) >= 250
    merges = [launch.kernel.entry for launch in plan.launches if launch.kernel.function == "merge"]
    assert set(merges) == {"merge_s4", "merge_s256"}
    pools = [launch.kernel.entry for launch in plan.launches if launch.kernel.function == "pool"]
    assert pools == ["pool_w32"] + ["pool_w16"] * 9


@pytest.mark.parametrize("size", [1, 7, 16, 32])
def test_the_widest_window(size: int) -> None:
    for side in range(1, size + 1):
        assert window(size, side) == (area_matrix(size, side) > 0).sum(1).max()


def test_what_is_rejected() -> None:
    kernels = kernel_set(SPEC, 32)
    for batch, programs in ((0, 1), (-1, 1), (1, 0)):
        with pytest.raises(InputError, match="expected 1 or more"):
            make_plan(kernels, SPEC, batch, programs=programs)
    with pytest.raises(InputError, match="pass smaller batches"):
        make_plan(kernels, SPEC, 2**26)
    with pytest.raises(ArtifactError, match="this tokenizer has 65536"):
        make_plan(kernels, FLUX, 1)

    def replaced(function: str, **changes: object) -> KernelSet:
        new: list[Kernel] = [
            dataclasses.replace(kernel, **changes) if kernel.function == function else kernel  # type: ignore[arg-type]
            for kernel in kernels.kernels
        ]
        return dataclasses.replace(kernels, kernels=tuple(new))

    narrow = replaced("pool", sizes={**kernels.of("pool")[0].sizes, "WINDOW": 2})
    with pytest.raises(ArtifactError, match="no pooling kernel is wide enough for side 1"):
        make_plan(narrow, SPEC, 1)
    with pytest.raises(ArtifactError, match="takes residual, rows, not"):
        make_plan(replaced("pool", arguments=kernels.of("pool")[0].arguments[:2]), SPEC, 1)
