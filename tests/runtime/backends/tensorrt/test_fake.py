"""The tests' fake of TensorRT is as the library is: what it has, the library has, in the same form."""

from __future__ import annotations

import enum
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runtime.backends import engines
from tests.runtime.backends.cuda import fake_trt
from tests.tensorrt_api.surface import MODULE, RTX, TENSORRT, Class, surface

# Each fake class, and the library whose it is. Kernels are of TensorRT-RTX too.
BOTH = [fake_trt.ILogger, fake_trt.Runtime, fake_trt.Engine, fake_trt.Context, fake_trt.RuntimeConfig]
BOTH += [fake_trt.EngineInspector]
OF_RTX = [fake_trt.CapturableContext, fake_trt.CachingConfig, fake_trt.RuntimeCache]
CLASSES = [*((kind, module) for kind in BOTH for module in (TENSORRT, RTX)), *((kind, RTX) for kind in OF_RTX)]
ENUMS = {
    "TensorIOMode": fake_trt.Mode,
    "ExecutionContextAllocationStrategy": fake_trt.Strategy,
    "LayerInformationFormat": fake_trt.Form,
    "ILogger.Severity": fake_trt.ILogger.Severity,
}


def real_class(kind: Any, module: str) -> Class:
    return surface(module).classes[kind.is_]


@pytest.mark.parametrize(("kind", "module"), CLASSES, ids=lambda of: getattr(of, "__name__", of))
def test_methods_have_the_library_s_parameters(kind: Any, module: str) -> None:
    real = real_class(kind, module)
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        made = name == "__init__" and name not in vars(kind)
        own = name in kind.OWN or (name == "__init__" and kind not in (fake_trt.Runtime, fake_trt.ILogger))
        if made or own or (name.startswith("_") and name != "__init__"):
            continue
        assert name in real.methods, f"{kind.is_} has no {name}"
        parameters = [*inspect.signature(method).parameters][1:]
        known = [[parameter.name for parameter in way.parameters] for way in real.methods[name]]
        assert parameters in known, f"{kind.is_}.{name} takes {known}"


@pytest.mark.parametrize(("name", "fake"), ENUMS.items())
@pytest.mark.parametrize("module", [TENSORRT, RTX])
def test_enums_have_the_library_s_values(module: str, name: str, fake: type[enum.Enum]) -> None:
    real = surface(module).classes[name].values
    assert {member.name: member.value for member in fake}.items() <= real.items()


def test_the_enum_of_rtx_alone() -> None:
    name = "DynamicShapesKernelSpecializationStrategy"
    assert {member.name: member.value for member in fake_trt.Kernels}.items() <= surface(RTX).classes[
        name
    ].values.items()
    assert name not in surface(TENSORRT).classes


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "rtx"])
def test_objects_have_the_library_s_attributes(driver: object, sealed: Path, tmp_path: Path, rtx: bool) -> None:
    """Of the objects themselves, as a session makes them: what they have is the library's, or said to be their own."""
    trt = fake_trt.make(rtx=rtx)
    session = engines.session(tmp_path, sealed, trt=trt)
    session.run(engines.ids(2))
    engine = session._engine.raw
    context = engine.create_execution_context(fake_trt.Strategy.USER_MANAGED)
    made = [trt.live, engine, context, engine.create_runtime_config(), engine.create_engine_inspector(), trt.ILogger()]
    session.close()
    for thing in made:
        real = real_class(thing, RTX if rtx else TENSORRT)
        kept = {name for name in vars(thing) if not name.startswith("_")} - thing.OWN
        kept |= {name for name, _ in inspect.getmembers(type(thing), lambda of: isinstance(of, property))}
        if not rtx:
            kept -= {"dynamic_shapes_kernel_specialization_strategy"}
        assert kept <= real.properties.keys(), type(thing).__name__
        hidden = thing.OWN & (real.properties.keys() | real.methods.keys())
        assert hidden == set(), f"{hidden} of {thing.is_} are the library's"


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "rtx"])
def test_the_module_has_the_library_s_names(rtx: bool) -> None:
    """What a test reads from the fake beside these, and sets to make it fail, is nothing that the library has."""
    own = {"rtx", "capturable", "fail_execute", "fail_context", "fail_profile", "fail_recorded", "contexts", "eager"}
    own |= {"switches", "runs", "ran_in", "host_code", "live", "logger", "complain", "compiled"}
    fake: SimpleNamespace = fake_trt.make(rtx=rtx)
    real = surface(RTX if rtx else TENSORRT).classes[MODULE]
    known = real.classes.keys() | real.methods.keys()
    assert {name for name in vars(fake) if not name.startswith("_")} - own <= known
    assert own & known == set()
    (way,) = real.methods["nptype"]
    assert [*inspect.signature(fake.nptype).parameters] == [parameter.name for parameter in way.parameters]
