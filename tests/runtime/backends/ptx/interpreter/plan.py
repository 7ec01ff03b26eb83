"""A launch plan run as the session runs it, on the interpreter in place of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_runtime.backends.ptx import Launch, Plan
from coda_runtime.backends.ptx.backend import typed
from tests.runtime.backends.ptx.interpreter.arithmetic import Array
from tests.runtime.backends.ptx.interpreter.faults import LaunchError, UninitialisedError
from tests.runtime.backends.ptx.interpreter.machine import program
from tests.runtime.backends.ptx.interpreter.memory import GlobalMemory

_PARAMETERS = {"*fp32": "u64", "*fp16": "u64", "*i32": "u64", "fp32": "f32", "i32": "u32"}


def run_plan(plan: Plan, modules: Mapping[str, bytes], tables: Mapping[str, Array], latent: Array) -> Array:
    """Return the ids, int32 [B, L], of latents, float32 [B, C, h, w].

    `modules` are PTX by entry name, `tables` what `device_tables` gives. Raises PtxError.
    """
    memory = GlobalMemory()
    for name, table in tables.items():
        memory.add(name, table)
    for name, buffer in plan.buffers.items():
        if name == "latent":
            memory.add(name, np.asarray(latent, np.float32).reshape(buffer.shape))
        else:
            memory.add_scratch(name, buffer.bytes // 4)
    for place, launch in enumerate(plan.launches):
        if launch.kernel.function == "pool":
            _begin_scale(launch, plan.launches[place + 1], memory)
        run_launch(launch, modules[launch.kernel.entry], memory)
    ids, written = memory.fetch("ids", np.int32, plan.buffers["ids"].shape)
    if not written.all():
        raise UninitialisedError(f"no kernel writes {np.count_nonzero(~written)} of {ids.size} ids")
    return ids


def _begin_scale(pool: Launch, search: Launch, memory: GlobalMemory) -> None:
    """Clear the buffers that one scale uses, and cut them to what it needs.

    What is left from the scale before, or lies behind the last token, is nothing to it.
    """
    tokens, splits = named(pool)["tokens"], named(search)["splits"]
    for name in ("rows", "grid"):
        memory.clear(name, tokens * search.kernel.sizes["CHANNELS_PADDED"])
    partial = {"scores", "codes", "groups", "others"} & set(named(search))
    for name in partial:
        memory.clear(name, tokens * splits * search.kernel.sizes.get("GROUPS", 1))


def named(launch: Launch) -> dict[str, Any]:
    """Return a launch's arguments by name."""
    return {name: value for (name, _), value in zip(launch.kernel.arguments, launch.arguments, strict=True)}


def run_launch(launch: Launch, ptx: bytes, memory: GlobalMemory) -> None:
    """Run one launch on the buffers of `memory`. Raises PtxError."""
    kernel = program(ptx.decode("ascii"))
    types = [_PARAMETERS[kind] for _, kind in launch.kernel.arguments] + ["u64"] * launch.kernel.hidden
    found = [kind for _, kind in kernel.module.parameters]
    if types != found:
        raise LaunchError(f"{launch.kernel.entry} takes {', '.join(found)}, and the plan gives {', '.join(types)}")
    values: list[Any] = [memory.addresses[value] if isinstance(value, str) else value for value in launch.arguments]
    kernel.launch(launch.grid, launch.block, launch.kernel.shared, typed(launch, values), memory)
