"""Which kernels a batch launches, in what order and with what: a list that is fixed by the batch, for one CUDA graph.

A scale is four launches: pool, search, merge, subtract; the last scale needs no subtract. Scales of many tokens are
screened and settled in place of search and merge, but for bundles of before there was that. Between them, data lies in
buffers that are named here and allocated by whoever runs the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import ArtifactError, InputError
from ...format.parts import IDS, LATENT
from ...format.sizes import Shape, count_of
from ...format.spec import Spec
from .device_tables import tap_tables
from .kernel_set import WARP, Kernel, KernelSet, padded_channels
from .screening import FROM_TOKENS, GROUPS, share

Argument = str | int | float
"""A buffer's or a table's name, or a number."""

_INT32 = 2**31


@dataclass(frozen=True)
class Buffer:
    """An array, C-contiguous."""

    shape: tuple[int, ...]
    dtype: Literal["float32", "int32"]

    @property
    def bytes(self) -> int:
        """Its size."""
        size = 4
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Launch:
    """One kernel over `grid` blocks; `arguments` in the kernel's order."""

    kernel: Kernel
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]

    @property
    def block(self) -> tuple[int, int, int]:
        """Threads a block."""
        return (self.kernel.warps * WARP, 1, 1)


@dataclass(frozen=True)
class Plan:
    """The launches of a batch and the buffers they share: "latent" goes in, "ids" comes out, the rest is scratch."""

    batch: int
    launches: tuple[Launch, ...]
    buffers: Mapping[str, Buffer]


def make_plan(
    kernels: KernelSet,
    spec: Spec,
    batch: int,
    *,
    eps: float = 0.0,
    programs: int = 512,
    places: Mapping[str, int] | None = None,
    screen_from: int = FROM_TOKENS,
) -> Plan:
    """Return the plan of `batch` latents, 1 or more. `eps` is SearchTables.eps.

    `programs` is how many blocks of the search should be in flight at least, a few for every multiprocessor of the GPU:
    a scale with few tokens splits the table among more of them. `places` is, by entry, how many blocks of a screening
    kernel the GPU runs at once; `programs` where it is not known. Scales of `screen_from` tokens and more are screened.
    None of this changes ids.

    Raises InputError for a batch whose buffers a 32-bit index cannot reach, ArtifactError for kernels that do not fit.
    """
    kernels.check(spec)
    padded, max_rows = padded_channels(spec.latent_channels), batch * count_of(spec.latent_shape)
    if batch < 1 or programs < 1:
        raise InputError(f"batch is {batch} and programs {programs}; expected 1 or more of each")
    launches: list[Launch] = []
    residual, partials, screened = "latent", 1, 1
    for shape, stop in zip(spec.scale_shapes, spec.prefix_lengths, strict=True):
        count, sides = count_of(shape), _sides(spec, shape)
        tokens = batch * count
        pool = _pool_kernel(kernels, spec, shape)
        launches.append(_launch(pool, _blocks(tokens, pool.sizes["BLOCK_TOKENS"]), residual=residual, **sides,
                                rows="rows", tokens=tokens))  # fmt: skip
        if kernels.screens and tokens >= screen_from:
            found, partial = _screen(kernels, tokens, count, stop - count, places or {}, programs, eps)
            screened = max(screened, partial)
        else:
            found, partial = _search(kernels, tokens, count, stop - count, programs, eps)
            partials = max(partials, partial)
        launches += found
        if shape == spec.latent_shape:
            continue
        points, subtract = batch * count_of(spec.latent_shape), kernels.of(_named("subtract", spec))[0]
        launches.append(
            _launch(
                subtract, _blocks(points, subtract.sizes["BLOCK_POINTS"]), before=residual, grid="grid",
                **_taps(spec, shape), after="residual", points=points, **sides,
            )
        )  # fmt: skip
        residual = "residual"
    latent = Buffer(LATENT.shape(spec, batch), "float32")
    buffers = {
        "latent": latent,
        "residual": latent,
        "rows": Buffer((max_rows, padded), "float32"),
        "grid": Buffer((max_rows, padded), "float32"),
        "scores": Buffer((max(partials, screened),), "float32"),
        "codes": Buffer((partials,), "int32"),
        **(
            {"groups": Buffer((screened,), "int32"), "others": Buffer((screened,), "float32")}
            if kernels.screens
            else {}
        ),
        "ids": Buffer(IDS.shape(spec, batch), "int32"),
    }
    if max(buffer.bytes for buffer in buffers.values()) // 4 >= _INT32:
        raise InputError(f"a batch of {batch} needs buffers of more than 2^31 numbers; pass smaller batches")
    return Plan(batch, tuple(launches), buffers)


def _launch(kernel: Kernel, blocks: int, splits: int = 1, /, **values: Argument) -> Launch:
    missing = [name for name, _ in kernel.arguments if name not in values]
    if missing or len(values) != len(kernel.arguments):
        names = ", ".join(name for name, _ in kernel.arguments)
        raise ArtifactError(
            f"the kernel {kernel.entry} takes {names}, not {', '.join(values)}; export the bundle again"
        )
    return Launch(kernel, (blocks, splits, 1), tuple(values[name] for name, _ in kernel.arguments))


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _named(function: str, spec: Spec) -> str:
    return function if spec.is_square else f"{function}_rectangle"


def _sides(spec: Spec, shape: Shape) -> dict[str, Argument]:
    """Return a scale's sides as the kernels take them."""
    return {"side": shape[0]} if spec.is_square else {"down": shape[0], "across": shape[1]}


def _taps(spec: Spec, shape: Shape) -> dict[str, Argument]:
    """Return the tables of a scale's upsampling as the kernels take them."""
    (taps, weights), (column_taps, column_weights) = (
        tap_tables(spec, size, side) for size, side in zip(spec.latent_shape, shape, strict=True)
    )
    if spec.is_square:
        return {"taps": taps, "weights": weights}
    return {
        "row_taps": taps,
        "row_weights": weights,
        "column_taps": column_taps,
        "column_weights": column_weights,
    }


def widest_window(spec: Spec, shape: Shape) -> int:
    """Return the widest pooling window of a scale along either side, in positions."""
    return max(window(size, side) for size, side in zip(spec.latent_shape, shape, strict=True))


def window(size: int, side: int) -> int:
    """Return the widest pooling window from `size` to `side` positions, in positions."""
    return max(-(-(position + 1) * size // side) - position * size // side for position in range(side))


def _pool_kernel(kernels: KernelSet, spec: Spec, shape: Shape) -> Kernel:
    widest = widest_window(spec, shape)
    wide = [kernel for kernel in kernels.of(_named("pool", spec)) if kernel.sizes["WINDOW"] >= widest]
    if not wide:
        raise ArtifactError(f"no pooling kernel is wide enough for side {min(shape)}; export the bundle again")
    return min(wide, key=lambda kernel: kernel.sizes["WINDOW"])


def _screen(
    kernels: KernelSet, tokens: int, each: int, start: int, places: Mapping[str, int], programs: int, eps: float
) -> tuple[list[Launch], int]:
    """Return the launches that find a scale's ids by halves, and how many partial results lie between them."""
    screen = _fitting(kernels.of("screen"), tokens)
    limit = max(kernel.sizes["SPLITS"] for kernel in kernels.of("settle"))
    blocks, chunks = _blocks(tokens, screen.sizes["BLOCK_TOKENS"]), screen.sizes["CODES"] // screen.sizes["STEP"]
    splits, chunks = share(blocks, chunks, places.get(screen.entry, programs), limit)
    settle = _narrowest(kernels.of("settle"), splits)
    both: dict[str, Argument] = {
        "rows": "rows", "spread": "spread", "offset": "offset", "eps": eps, "scores": "scores", "groups": "groups",
        "others": "others", "tokens": tokens, "splits": splits, "chunks": chunks,
    }  # fmt: skip
    return [
        _launch(screen, blocks, splits, **both, halves="halves", biases="biases", slopes="slopes"),
        _launch(
            settle, _blocks(tokens, settle.sizes["BLOCK_TOKENS"]), **both, table="table", bias="bias", slope="slope",
            bounds="bounds", values="values", ids="ids", grid="grid", places=each, start=start,
        ),
    ], tokens * splits * GROUPS  # fmt: skip


def _search(
    kernels: KernelSet, tokens: int, each: int, start: int, programs: int, eps: float
) -> tuple[list[Launch], int]:
    """Do as `_screen` does, in float32."""
    search = _fitting(kernels.of("search"), tokens)
    splits, chunks = _split(kernels, search, tokens, programs)
    merge = _narrowest(kernels.of("merge"), splits)
    return [
        _launch(
            search, _blocks(tokens, search.sizes["BLOCK_TOKENS"]), splits, rows="rows", table="table", bias="bias",
            slope="slope", spread="spread", offset="offset", eps=eps, scores="scores", codes="codes", tokens=tokens,
            splits=splits, chunks=chunks,
        ),
        _launch(
            merge, _blocks(tokens, merge.sizes["BLOCK_TOKENS"]), scores="scores", codes="codes", values="values",
            ids="ids", grid="grid", tokens=tokens, splits=splits, places=each, start=start,
        ),
    ], tokens * splits  # fmt: skip


def _fitting(kernels: Sequence[Kernel], tokens: int) -> Kernel:
    # The largest block that the tokens fill, or else the smallest.
    ordered = sorted(kernels, key=lambda kernel: kernel.sizes["BLOCK_TOKENS"])
    filled = [kernel for kernel in ordered if kernel.sizes["BLOCK_TOKENS"] <= tokens]
    return filled[-1] if filled else ordered[0]


def _narrowest(kernels: Sequence[Kernel], splits: int) -> Kernel:
    return min((it for it in kernels if it.sizes["SPLITS"] >= splits), key=lambda it: it.sizes["SPLITS"])


def _split(kernels: KernelSet, search: Kernel, tokens: int, programs: int) -> tuple[int, int]:
    """Return how many splits of the table there are, and of how many chunks each."""
    chunks = search.sizes["CODES"] // search.sizes["BLOCK_CODES"]
    limit = max(kernel.sizes["SPLITS"] for kernel in kernels.of("merge"))
    wanted = min(limit, chunks, _blocks(programs, _blocks(tokens, search.sizes["BLOCK_TOKENS"])))
    each = _blocks(chunks, wanted)
    return _blocks(chunks, each), each
