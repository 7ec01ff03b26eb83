"""The two engine libraries: how each is imported, and what sets it apart from the other."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from ...errors import BackendError, BuildError, InputError, MissingDependencyError, one_line
from ...format.engine_key import version_numbers
from ...requirements import first_version, pip_install

# Name, which is also the artifacts' format: module names in order of preference, and the title users know it by.
_LIBRARIES = {
    "tensorrt": (("tensorrt",), "TensorRT"),
    "tensorrt-rtx": (("tensorrt_rtx", "tensorrt_rtx_bindings"), "TensorRT-RTX"),
}
LIBRARIES = tuple(_LIBRARIES)


@dataclass(frozen=True)
class EngineLibrary:
    """An imported engine library. `name` is the format of its artifacts, `module` its Python module."""

    name: str
    title: str
    version: str
    module: Any

    @property
    def targets(self) -> tuple[str, ...]:
        """GPUs it can build for without having one, as "sm89"; empty where it only builds for the GPU at hand."""
        return targets_of(self.module)


def targets_of(module: Any) -> tuple[str, ...]:
    """See `EngineLibrary.targets`; `module` is the library's."""
    capabilities = getattr(module, "ComputeCapability", None)
    if capabilities is None:
        return ()
    return tuple(name.lower() for name in capabilities.__members__ if name.startswith("SM"))


def check_name(name: str) -> str:
    """Return `name` if it is an engine library's. Raises InputError."""
    if name not in _LIBRARIES:
        raise InputError(f"engine is {name!r}; expected one of {', '.join(LIBRARIES)}")
    return name


def module_name(name: str) -> str | None:
    """Return the module of an engine library that is installed, None if there is none. Imports nothing."""
    return next((module for module in _LIBRARIES[name][0] if importlib.util.find_spec(module) is not None), None)


def missing(name: str) -> MissingDependencyError:
    """Return the error for an engine library that is not installed."""
    title = _LIBRARIES[name][1]
    return MissingDependencyError(f"{title} engines need {title}, which is not installed", extra=name)


def find_library(name: str) -> EngineLibrary:
    """Import an engine library. Raises InputError, MissingDependencyError, BackendError when it does not import."""
    found = module_name(check_name(name))
    title = _LIBRARIES[name][1]
    if found is None:
        raise missing(name)
    try:
        module = importlib.import_module(found)
    except ModuleNotFoundError as error:
        if error.name == found:
            raise missing(name) from error
        raise _broken(title, name, error) from error
    except (ImportError, OSError) as error:  # its shared libraries are loaded while it is imported
        raise _broken(title, name, error) from error
    version = getattr(module, "__version__", None)
    if not isinstance(version, str):
        raise BuildError(
            f"{title} does not say its version, so no engine of it could be told from another; reinstall it"
        )
    check_version(name, version)
    return EngineLibrary(name, title, version, module)


def check_version(name: str, version: str) -> None:
    """Raise BackendError for a version of an engine library that is older than the first that is supported."""
    first = first_version(name)
    if version_numbers(version) < version_numbers(first):
        raise BackendError(
            f"{_LIBRARIES[name][1]} {version} is installed, and {first} or newer is needed, the first that has all "
            f"that engines use here: {pip_install(name, options='--upgrade')}, or take a container or an image of the "
            "system that has it"
        )


def _broken(title: str, name: str, error: Exception) -> BackendError:
    return BackendError(
        f"{title} is installed but does not import ({one_line(error)}); reinstall it: "
        f"{pip_install(name, options='--force-reinstall')}"
    )
