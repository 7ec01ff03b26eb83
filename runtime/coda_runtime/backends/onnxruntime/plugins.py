"""Execution providers that come as packages of their own: found, registered when one is asked for, described."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ...errors import BackendError, MissingDependencyError
from ...machine.processors import describe_cpu
from ...requirements import pip_install
from .library import cause

OPENVINO = "OpenVINOExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"

_PREFIX = "onnxruntime-ep-"
# The package calls its provider otherwise than onnxruntime's documentation and older versions of it do.
_OTHER_NAMES = {"nv_tensorrt_rtx": TENSORRT_RTX}


@dataclass(frozen=True)
class Plugin:
    """An installed package that brings execution providers."""

    distribution: str
    version: str
    module: str


_lock = threading.Lock()
_registered: dict[str, Plugin] = {}
"""By provider: what brought it, be it without a device for this machine."""


def canonical(provider: str) -> str:
    """Return the name under which coda knows a provider that has several."""
    return _OTHER_NAMES.get(provider, provider)


def installed_plugins() -> list[Plugin]:
    """Return the installed distributions named onnxruntime-ep-*, by name. Imports none of them."""
    return sorted(set(_find()), key=lambda plugin: plugin.distribution)


def missing_plugin(provider: str, why: str) -> MissingDependencyError | None:
    """Return the error that names the package of a known plugin, `why` first; None for any other provider."""
    if provider == OPENVINO:
        return MissingDependencyError(why, extra="openvino-plugin")
    return MissingDependencyError(why, "onnxruntime-ep-nv-tensorrt-rtx") if provider == TENSORRT_RTX else None


def plugin_devices(ort: Any, provider: str) -> list[Any]:
    """Return the devices of a plugin's provider, which is registered if it is not yet.

    Empty if no plugin brings it, or if the one that does finds nothing here that it can use: `idle_plugin` tells
    which. `provider` is its canonical name. Safe to call from many threads. Raises BackendError for a plugin that is
    installed and does not load.
    """
    with _lock:
        found = _devices(ort, provider)
        if found or provider in _registered:  # a second registration would fail
            return found
        for plugin in sorted(installed_plugins(), key=lambda plugin: not _fits(plugin, provider)):
            try:
                module = importlib.import_module(plugin.module)
                fitting = [name for name in _provider_names(module) if canonical(name) == provider]
                if not fitting:
                    continue
                # Some plugins name their provider after the registration, so it is the package's own name for it.
                ort.register_execution_provider_library(fitting[0], module.get_library_path())
            except Exception as error:  # onnxruntime's errors have no common base, and the package may raise anything
                raise BackendError(
                    f"{plugin.distribution} {plugin.version} is installed but does not load ({cause(error)}); "
                    f"reinstall it: {pip_install(plugin.distribution, options='--force-reinstall')}"
                ) from error
            _registered[provider] = plugin
            return _devices(ort, provider)
    return []


def may_take(cpu: Mapping[str, Any]) -> bool:
    """Return whether OpenVINO's plugin may offer this processor: it takes Intel's alone, where others are told apart.

    `cpu` is what `describe_cpu` gives. OpenVINO itself takes others too.
    """
    return cpu["machine"].lower() in ("x86_64", "amd64") and cpu["vendor"] in (None, "GenuineIntel")


def idle_plugin(ort: Any, provider: str) -> str | None:
    """Return what to say of an installed plugin that offers no device here; None where there is no such plugin.

    Raises BackendError as `plugin_devices` does.
    """
    if plugin_devices(ort, provider) or provider not in _registered:
        return None
    plugin, cpu = _registered[provider], describe_cpu()
    where = f"for this processor ({cpu['model'] or cpu['machine']})" if provider == OPENVINO else "here"
    return f"{plugin.distribution} {plugin.version} is installed and offers no device {where}"


def describe_plugins(ort: Any) -> list[dict[str, Any]]:
    """Return each installed plugin with its version, providers, devices and problem, as JSON holds them.

    Loads their libraries into this process.
    """
    out = []
    for plugin in installed_plugins():
        entry: dict[str, Any] = {"name": plugin.distribution, "version": plugin.version, "problem": None}
        entry |= {"providers": [], "devices": []}
        try:
            entry["providers"] = _provider_names(importlib.import_module(plugin.module))
            for provider in entry["providers"]:
                entry["devices"] += [_describe(device) for device in plugin_devices(ort, canonical(provider))]
        except Exception as error:  # a broken plugin is what this is for
            entry["problem"] = cause(error)
        out.append(entry)
    return out


def device_name(device: Any) -> str:
    """Return a plugin's device as the plugin calls it ("CPU", "GPU.0"), or the kind of its hardware."""
    return str(device.ep_metadata.get("ov_device") or device.device.type.name)


def _describe(device: Any) -> str:
    full = device.ep_metadata.get("FULL_DEVICE_NAME")
    return f"{device_name(device)} ({full})" if full else device_name(device)


def _find() -> Iterator[Plugin]:
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"] or "").lower().replace("_", "-")
        if not name.startswith(_PREFIX):
            continue
        # The package of a distribution for one CUDA version is named without it; a metapackage has none.
        modules = {file.parts[0] for file in distribution.files or () if file.name == "__init__.py"}
        for module in modules:
            if module.startswith(_PREFIX.replace("-", "_")):
                yield Plugin(name, distribution.version, module)


def _fits(plugin: Plugin, provider: str) -> bool:
    """Return whether the package's name looks like the provider's: such a package is imported before the others."""
    name = provider.removesuffix("ExecutionProvider").lower()
    return plugin.distribution.removeprefix(_PREFIX).replace("-", "").startswith(name)


def _provider_names(module: Any) -> list[str]:
    names = module.get_ep_names() if hasattr(module, "get_ep_names") else [module.get_ep_name()]
    return [str(name) for name in names]


def _devices(ort: Any, provider: str) -> list[Any]:
    devices = [device for device in ort.get_ep_devices() if canonical(device.ep_name) == provider]
    # Providers that are built in have devices too, and are named when a session is made, not by device.
    return [device for device in devices if provider in _registered or "library_path" in device.ep_metadata]
