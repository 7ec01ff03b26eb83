from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coda_runtime import BackendError
from coda_runtime.backends.onnxruntime import plugins


def install(folder: Path, name: str, code: str, modules: tuple[str, ...]) -> None:
    """A distribution as pip leaves one: its metadata and its packages."""
    info = folder / f"{name.replace('-', '_')}-0.5.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.5.0\n")
    record = [f"{info.name}/METADATA,,"]
    for module in modules:
        (folder / module).mkdir()
        (folder / module / "__init__.py").write_text(code)
        record.append(f"{module}/__init__.py,,")
    (info / "RECORD").write_text("\n".join(record) + "\n")


class Library:
    """onnxruntime's side of it."""

    def __init__(self, has_hardware: bool = True) -> None:
        self.registered: dict[str, str] = {}
        self.devices: list[Any] = []
        self.has_hardware = has_hardware

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if name in self.registered:
            raise RuntimeError(f"library is already registered under {name}")
        self.registered[name] = path
        if self.has_hardware:
            self.devices.append(SimpleNamespace(ep_name=name, ep_metadata={}, device=None))

    def get_ep_devices(self) -> list[Any]:
        built_in = SimpleNamespace(ep_name="CPUExecutionProvider", ep_metadata={"version": "1"}, device=None)
        return [built_in, *self.devices]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(plugins, "_registered", {})
    for name in [name for name in sys.modules if name.startswith("onnxruntime_ep_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


FOO = "def get_library_path(): return '/lib/foo.so'\ndef get_ep_names(): return ['FooExecutionProvider']\n"


def test_any_package_of_that_name_is_found(site: Path) -> None:
    install(site, "onnxruntime-ep-foo-cu13", FOO, ("onnxruntime_ep_foo", "helpers"))
    install(site, "onnxruntime-ep-foo", "", ())  # a metapackage
    install(site, "onnxruntime-extensions", "", ("onnxruntime_extensions",))
    assert plugins.installed_plugins() == [plugins.Plugin("onnxruntime-ep-foo-cu13", "0.5.0", "onnxruntime_ep_foo")]
    assert "onnxruntime_ep_foo" not in sys.modules


def test_it_is_registered_once_and_when_asked_for(site: Path) -> None:
    install(site, "onnxruntime-ep-bar", "raise RuntimeError('not asked for')", ("onnxruntime_ep_bar",))
    install(site, "onnxruntime-ep-foo", FOO, ("onnxruntime_ep_foo",))
    library = Library()
    first = plugins.plugin_devices(library, "FooExecutionProvider")
    assert len(first) == 1
    assert plugins.plugin_devices(library, "FooExecutionProvider") == first
    assert library.registered == {"FooExecutionProvider": "/lib/foo.so"}


def test_one_without_a_device_is_registered_once_and_named(site: Path) -> None:
    install(site, "onnxruntime-ep-foo", FOO, ("onnxruntime_ep_foo",))
    library = Library(has_hardware=False)
    assert plugins.plugin_devices(library, "FooExecutionProvider") == []
    assert plugins.plugin_devices(library, "FooExecutionProvider") == []
    told = "onnxruntime-ep-foo 0.5.0 is installed and offers no device here"
    assert plugins.idle_plugin(library, "FooExecutionProvider") == told
    assert plugins.idle_plugin(library, "BarExecutionProvider") is None
    (entry,) = plugins.describe_plugins(library)
    assert (entry["devices"], entry["problem"]) == ([], None)


def test_a_plugin_that_the_application_registered_is_used_as_it_is(site: Path) -> None:
    install(site, "onnxruntime-ep-foo", FOO, ("onnxruntime_ep_foo",))
    library = Library()
    library.devices = [SimpleNamespace(ep_name="FooExecutionProvider", ep_metadata={"library_path": "/x"}, device=None)]
    assert plugins.plugin_devices(library, "FooExecutionProvider") == library.devices
    assert library.registered == {}


def test_tensorrt_rtx_goes_by_either_name(site: Path) -> None:
    code = "def get_library_path(): return '/lib/rtx.so'\ndef get_ep_name(): return 'nv_tensorrt_rtx'\n"
    install(site, "onnxruntime-ep-nv-tensorrt-rtx-cu13", code, ("onnxruntime_ep_nv_tensorrt_rtx",))
    library = Library()
    (device,) = plugins.plugin_devices(library, plugins.TENSORRT_RTX)
    assert library.registered == {"nv_tensorrt_rtx": "/lib/rtx.so"}
    assert plugins.canonical(device.ep_name) == plugins.TENSORRT_RTX
    assert plugins.plugin_devices(library, plugins.canonical("nv_tensorrt_rtx")) == [device]


def test_a_broken_plugin_is_named(site: Path) -> None:
    install(site, "onnxruntime-ep-foo", "import no_such_library", ("onnxruntime_ep_foo",))
    with pytest.raises(BackendError, match=r"onnxruntime-ep-foo 0\.5\.0 is installed but does not load \(No module"):
        plugins.plugin_devices(Library(), "FooExecutionProvider")
    (entry,) = plugins.describe_plugins(Library())
    assert (entry["name"], entry["version"], entry["devices"]) == ("onnxruntime-ep-foo", "0.5.0", [])
    assert "no_such_library" in entry["problem"]
