"""What the bindings know of plugins that are PTX: why the quantizer's kernels are none (docs/engines.md)."""

from __future__ import annotations

import importlib.util

from coda_export.kernels.compile import arguments
from tests.tensorrt_api.surface import RTX, TENSORRT, surface


def test_only_tensorrt_takes_ptx() -> None:
    """TensorRT-RTX, whose builder needs no GPU, has plugins that Python runs, and no class for compiled ones."""
    ahead, rtx = surface(TENSORRT).classes, surface(RTX).classes
    assert {name for name in ahead if "AOT" in name} == {"IPluginV3QuickAOTBuild"}
    assert not [name for name in rtx if "AOT" in name or "KernelLaunchParams" in name or "SymExpr" in name]
    assert "IPluginV3QuickBuild" in rtx
    assert importlib.util.find_spec(f"{RTX}.plugin") is None


def test_a_plugin_is_one_launch() -> None:
    assert set(surface(TENSORRT).classes["KernelLaunchParams"].properties) == {
        "grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem",
    }  # fmt: skip


def test_no_kernel_has_the_order_of_a_plugin() -> None:
    """Which is inputs, whole numbers, outputs."""
    for function in ("pool", "search", "merge", "screen", "settle", "subtract"):
        kinds = [kind.startswith("*") for _, kind in arguments(function)]
        assert not kinds[-1], function
