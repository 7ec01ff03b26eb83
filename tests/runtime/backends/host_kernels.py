"""The kernels' work in NumPy, for the stand-in for the driver: sessions, plans and tables run without a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from coda_runtime.backends.cuda import open_device
from coda_runtime.backends.ptx import Kernel, KernelSet, Launch
from coda_runtime.backends.ptx.backend import CudaLauncher
from coda_runtime.backends.ptx.kernel_set import padded_channels
from coda_runtime.codes.resample import area_matrix
from coda_runtime.format.spec import Spec
from tests.runtime.backends.cuda.driver.controls import Driver


def view(address: int | float, dtype: Any, *shape: int) -> Any:
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_uint8 * (4 * size)).from_address(int(address))).view(dtype).reshape(shape)


def kernel_set(spec: Spec, codes: int, query: int = 0, *, screens: bool = False) -> KernelSet:
    """Kernels such as a compiler would describe; with those that screen, or as older bundles have them."""
    latent = {
        "SIZE": spec.latent_size,
        "CHANNELS": spec.latent_channels,
        "CHANNELS_PADDED": padded_channels(spec.latent_channels),
    }
    padded = {"CODES": codes, "CHANNELS_PADDED": latent["CHANNELS_PADDED"]}
    p, i, f = "*fp32", "i32", "fp32"
    pool = (("residual", p), ("rows", p), ("tokens", i), ("side", i))
    search: tuple[tuple[str, str], ...] = (("rows", p), ("table", p), ("bias", p), ("slope", p), ("spread", p))
    search += (("offset", p), ("eps", f))
    search += (("scores", p), ("codes", "*i32"), ("tokens", i), ("splits", i), ("chunks", i))
    merge = (("scores", p), ("codes", "*i32"), ("values", p), ("ids", "*i32"), ("grid", p), ("tokens", i))
    merge += (("splits", i), ("places", i), ("start", i))
    subtract = (("before", p), ("grid", p), ("taps", "*i32"), ("weights", p), ("after", p), ("points", i), ("side", i))
    sizes = {"BLOCK_CODES": 8, **padded, "QUERY": query, "QUERY_PADDED": 16}
    halves = {"BLOCK_CODES": 8, "STEP": 256, "GROUPS": 8, **padded, "QUERY": query, "QUERY_PADDED": 16}
    found: tuple[tuple[str, str], ...] = (("eps", f), ("scores", p), ("groups", "*i32"), ("others", p), ("tokens", i))
    screen = (("rows", p), ("halves", "*fp16"), ("biases", p), ("slopes", p), ("spread", p), ("offset", p), *found)
    screen += (("splits", i), ("chunks", i))
    settle = (*search[:6], ("bounds", p), *found, ("values", p), ("ids", "*i32"), ("grid", p))
    settle += (("splits", i), ("chunks", i), ("places", i), ("start", i))
    screening = (
        Kernel("screen", "screen_m8", screen, {"BLOCK_TOKENS": 8, **halves}, 2, shared=512, hidden=2, bytes=1),
        Kernel("settle", "settle_s4", settle,
               {"SPLITS": 4, "BLOCK_TOKENS": 1, "LENGTH": spec.num_tokens, **halves}, 1, bytes=1),
    )  # fmt: skip
    return KernelSet(
        (
            Kernel("pool", "pool_w16", pool, {"WINDOW": 16, "BLOCK_TOKENS": 1, **latent}, 4, bytes=1),
            Kernel("search", "search_m2", search, {"BLOCK_TOKENS": 2, **sizes}, 4, shared=512, hidden=2, bytes=1),
            Kernel("search", "search_m8", search, {"BLOCK_TOKENS": 8, **sizes}, 4, bytes=1),
            Kernel("merge", "merge_s4", merge,
                   {"SPLITS": 4, "BLOCK_TOKENS": 4, "LENGTH": spec.num_tokens, **padded}, 4, bytes=1),
            *(screening if screens else ()),
            Kernel("subtract", "subtract_p16", subtract, {"BLOCK_POINTS": 16, **latent}, 4, bytes=1),
        ),
        ("sm80",),
        "8.0",
        "0",
    )  # fmt: skip


def with_ptx(kernels: KernelSet) -> tuple[KernelSet, bytes]:
    """Return the set with modules of PTX that have its entries and parameters, and do nothing by themselves."""
    made, ptx = [], b""
    for kernel in kernels.kernels:
        types = [_TYPES.get(kind, (".u64 .ptr .global .align 1", 8))[0] for _, kind in kernel.arguments]
        types += [".u64 .ptr .global .align 1"] * kernel.hidden
        parameters = ",".join(f"\n .param {kind} {kernel.entry}_param_{i}" for i, kind in enumerate(types))
        head = f".version {kernels.ptx_isa}\n.target sm_80\n.address_size 64\n"
        module = f"{head}.visible .entry {kernel.entry}({parameters}\n)\n{{ ret; }}\n".encode()
        made.append(dataclasses.replace(kernel, offset=len(ptx), bytes=len(module)))
        ptx += module
    return dataclasses.replace(kernels, kernels=tuple(made)), ptx


class NotingLauncher(CudaLauncher):
    """Loads the kernels with the driver, whose work is done here. `launched` are those that were queued or recorded."""

    def __init__(self, driver: Driver, kernels: KernelSet, index: int = 0) -> None:
        self.launched: list[str] = []
        with_modules, ptx = with_ptx(kernels)
        for kernel in kernels.kernels:
            driver.add_kernels({kernel.entry: partial(_work, kernel)})
        with open_device(index).active():
            super().__init__(with_modules.modules(ptx), index)

    def launch(self, launch: Launch, values: Sequence[int | float], stream: int) -> None:
        super().launch(launch, values, stream)
        self.launched.append(launch.kernel.entry)


_TYPES: dict[str, tuple[str, int]] = {"i32": (".u32", 4), "fp32": (".f32", 4)}


def _work(kernel: Kernel, address: int) -> None:
    """Read the arguments as the launch packed them, and do what the kernel does."""
    values: dict[str, Any] = {}
    at = 0
    for name, kind in kernel.arguments:
        size = _TYPES.get(kind, ("", 8))[1]
        at = -(-at // size) * size
        of = {"i32": ctypes.c_int32, "fp32": ctypes.c_float}.get(kind, ctypes.c_uint64)
        values[name] = of.from_address(address + at).value
        at += size
    _WORK[kernel.function](**kernel.sizes, **values)


def _pool(**a: Any) -> None:
    size, channels, side = a["SIZE"], a["CHANNELS"], a["side"]
    batch = a["tokens"] // side**2
    down = area_matrix(size, side)
    pooled = down @ view(a["residual"], np.float32, batch, channels, size, size) @ down.T
    rows = view(a["rows"], np.float32, a["tokens"], a["CHANNELS_PADDED"])
    rows[:] = 0
    rows[:, :channels] = pooled.transpose(0, 2, 3, 1).reshape(-1, channels)


def _search(**a: Any) -> None:
    padded, codes, splits = a["CHANNELS_PADDED"], a["CODES"], a["splits"]
    rows = view(a["rows"], np.float32, a["tokens"], padded)
    scores = rows @ view(a["table"], np.float32, padded, codes) + view(a["bias"], np.float32, codes)
    if a["QUERY"]:
        spread = view(a["spread"], np.float32, padded, a["QUERY_PADDED"])
        offset = view(a["offset"], np.float32, a["QUERY_PADDED"])
        std = np.sqrt(np.square(rows @ spread + offset).sum(1, keepdims=True) / a["QUERY"] + np.float32(a["eps"]))
        scores = scores + std * view(a["slope"], np.float32, codes)
    for split in range(splits):
        share = slice(split * a["chunks"] * a["BLOCK_CODES"], (split + 1) * a["chunks"] * a["BLOCK_CODES"])
        view(a["scores"], np.float32, a["tokens"], splits)[:, split] = scores[:, share].max(1)
        view(a["codes"], np.int32, a["tokens"], splits)[:, split] = scores[:, share].argmax(1) + share.start


def _screen(**a: Any) -> None:
    """Write something of the right size: what is screened is settled from the rows again."""
    for name in ("scores", "groups", "others"):
        view(a[name], np.float32, a["tokens"], a["splits"], a["GROUPS"])[:] = 0


def _settle(**a: Any) -> None:
    kept = [np.zeros(a["tokens"], np.float32), np.zeros(a["tokens"], np.int32)]
    scores, codes = (array.ctypes.data for array in kept)
    whole = {**a, "splits": 1, "chunks": a["CODES"] // a["BLOCK_CODES"], "scores": scores, "codes": codes}
    _search(**whole)
    _merge(**whole)


def _merge(**a: Any) -> None:
    tokens, places = a["tokens"], a["places"]
    best = view(a["scores"], np.float32, tokens, a["splits"]).argmax(1)
    found = view(a["codes"], np.int32, tokens, a["splits"])[np.arange(tokens), best]
    ids = view(a["ids"], np.int32, tokens // places, a["LENGTH"])
    ids[:, a["start"] : a["start"] + places] = found.reshape(-1, places)
    values = view(a["values"], np.float32, found.max() + 1, a["CHANNELS_PADDED"])
    view(a["grid"], np.float32, tokens, a["CHANNELS_PADDED"])[:] = values[found]


def _subtract(**a: Any) -> None:
    size, channels, side = a["SIZE"], a["CHANNELS"], a["side"]
    batch = a["points"] // size**2
    taps, weights = view(a["taps"], np.int32, 4, size), view(a["weights"], np.float32, 4, size)
    up = np.zeros((size, side), np.float32)
    np.add.at(up, (np.arange(size), taps), weights)
    grid = view(a["grid"], np.float32, batch, side, side, a["CHANNELS_PADDED"])[..., :channels].transpose(0, 3, 1, 2)
    shape = (batch, channels, size, size)
    view(a["after"], np.float32, *shape)[:] = view(a["before"], np.float32, *shape) - up @ grid @ up.T


_WORK = {
    "pool": _pool, "search": _search, "merge": _merge, "screen": _screen, "settle": _settle, "subtract": _subtract
}  # fmt: skip
