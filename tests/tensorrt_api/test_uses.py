"""Every name, signature and enum that the code takes of TensorRT and TensorRT-RTX is what their own classes have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coda_runtime.build import builder, memory
from coda_runtime.build.options import HARDWARE
from coda_runtime.format.precision import PRECISIONS
from tests.tensorrt_api.surface import RTX, TENSORRT, Surface, signatures, surface
from tests.tensorrt_api.uses import Uses, elsewhere, read, uses

# Asked for before it is used, or set only where targets are given, which only TensorRT-RTX has.
RTX_ONLY = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeCache",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
}
LIBRARIES = pytest.mark.parametrize("module", [TENSORRT, RTX])


@LIBRARIES
def test_what_is_used_is_there(module: str) -> None:
    found = uses(surface(module))
    assert found.absent == (RTX_ONLY if module == TENSORRT else set())
    assert found.wrong == []
    assert found.unseen == set(), "give the names a class in ROOTS"


def test_all_of_it_is_seen() -> None:
    used = uses(surface(RTX)).used
    assert len(used) > 90
    assert used >= {
        *("ICudaEngine.create_execution_context", "IExecutionContext.execute_async_v3", "Runtime", "nptype"),
        *(
            "IExecutionContext.set_optimization_profile_async",
            "IRuntimeConfig.set_execution_context_allocation_strategy",
        ),
        *("Runtime.engine_host_code_allowed", "EngineInspector.get_engine_information", "ILogger.Severity.ERROR"),
        *("Builder.build_serialized_network", "IBuilderConfig.set_timing_cache", "ParserError.node_name"),
        *(
            "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
            "IOptimizationProfile.set_shape",
            "IProgressMonitor.phase_start",
        ),
        *("ILayer.type", "LayerType.name", "ITensor.dtype", "DataType.itemsize", "ITimingCache.serialize"),
        *RTX_ONLY,
    }


def test_no_other_module_uses_it() -> None:
    found = elsewhere(surface(RTX))
    assert found.used == set(), "give the module a line in ROOTS"
    # Of onnxruntime's and OpenVINO's own modules, which have a function of that name.
    assert {name.rpartition(": ")[2] for name in found.unseen} == {"library.load_library"}


@LIBRARIES
def test_the_names_in_tables_are_members(module: str) -> None:
    check_tables(surface(module))


def check_tables(found: Surface) -> None:
    classes = found.classes
    assert {*HARDWARE.values()} <= classes["HardwareCompatibilityLevel"].values.keys()
    assert {precision.tensorrt_type for precision in PRECISIONS.values()} <= classes["DataType"].values.keys()
    compared = [re.findall(r'(?:kind|type\.name) [!=]= "([A-Z_]+)"', _source(of.__file__)) for of in (builder, memory)]
    assert compared == [["DEQUANTIZE"], ["CONSTANT"]], "what a layer's type is compared with"
    assert {"DEQUANTIZE", "CONSTANT", *builder._WEIGHTY} <= classes["LayerType"].values.keys()


def test_networks_are_strongly_typed() -> None:
    """A graph's types are its engine's. Up to TensorRT 10 that is to be asked for, and excludes flags of precisions."""
    used = uses(surface(RTX)).used
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in used
    assert {name for name in used if name.startswith("BuilderFlag.")} == {
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
        "BuilderFlag.TF32",
        "BuilderFlag.VERSION_COMPATIBLE",
    }


def _source(file: str | None) -> str:
    return Path(str(file)).read_text(encoding="utf-8")


# --- That the reader sees a fault ------------------------------------------------------------------------------------


def reading(source: str, **names: str) -> Uses:
    found = Uses()
    read(source, "made_up.py", {"trt": "", **names}, surface(TENSORRT), found)
    return found


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        ("trt.Bilder(logger)", "Bilder"),
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("trt.ILogger.Severity.FATAL", "ILogger.Severity.FATAL"),
        ("runtime = trt.Runtime(logger)\nruntime.deserialize_engine(data)", "Runtime.deserialize_engine"),
        ("trt.Runtime(logger).deserialize_cuda_engine(data).num_bindings", "ICudaEngine.num_bindings"),
        ("getattr(engine, 'get_binding_name', None)", "ICudaEngine.get_binding_name"),
        ("able = getattr(engine.create_execution_context(), 'execute_v3')", "IExecutionContext.execute_v3"),
        ("for dims in engine.get_tensor_profile_shape('x', 0): dims.volume", "Dims.volume"),
        ("[dims.volume for dims in engine.get_tensor_profile_shape('x', 0)]", "Dims.volume"),
        ("config.fp16_mode = True", "IBuilderConfig.fp16_mode"),
        ("if (cache := config.get_timing_cache()) is not None: cache.save()", "ITimingCache.save"),
        ("class Own(trt.IProgressMonitor):\n def begin(self): ...", "IProgressMonitor.begin"),
    ],
)
def test_a_name_that_is_not_there(source: str, absent: str) -> None:
    found = reading(source, engine="ICudaEngine", config="IBuilderConfig")
    assert found.absent == {absent}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("trt.Runtime()", r"Runtime is called trt.Runtime\(\); it takes \(logger\)"),
        ("context.set_device_memory(memory)", r"IExecutionContext.set_device_memory .*; it takes \(memory, size\)"),
        ("context.set_device_memory(memory, size, 1)", r"it takes \(memory, size\)"),
        ("context.execute_async_v3(stream=1)", r"it takes \(stream_handle\)"),
        ("context.set_input_shape('x', name='x')", r"it takes \(name, shape\) or \(name, shape\)"),
        ("config.clear_flag(trt.TensorIOMode.INPUT)", r"it takes \(flag\)"),
        ("config.clear_flag(trt.BuilderFlag)", r"it takes \(flag\)"),
        ("config.profiling_verbosity = trt.BuilderFlag.TF32", r"is a ProfilingVerbosity, and gets"),
        ("engine.num_io_tensors = 2", r"ICudaEngine.num_io_tensors cannot be set"),
        ("trt.nptype()", r"it takes \(trt_type\)"),
        ("class Own(trt.ILogger):\n def log(self, msg): ...", r"ILogger.log is given \(severity, msg\), and takes 1"),
    ],
)
def test_a_call_that_does_not_fit(source: str, message: str) -> None:
    found = reading(source, engine="ICudaEngine", config="IBuilderConfig", context="IExecutionContext")
    assert found.absent == set()
    (wrong,) = found.wrong
    assert re.search(message, wrong), wrong
    assert wrong.startswith("made_up.py:")


@pytest.mark.parametrize(
    "source",
    [
        "context.set_input_shape('x', (1, 2))",
        "context.set_input_shape(shape=(1, 2), name='x')",
        "context.set_input_shape(*both)",
        "engine.create_execution_context()",
        "engine.create_execution_context(trt.ExecutionContextAllocationStrategy.STATIC)",
        "engine.create_execution_context(engine.create_runtime_config())",
        "config.clear_flag(trt.BuilderFlag.TF32)",
        "config.progress_monitor = anything",
        "class Own(trt.ILogger):\n def log(self, severity, text): ...",
    ],
)
def test_a_call_that_fits(source: str) -> None:
    found = reading(source, engine="ICudaEngine", config="IBuilderConfig", context="IExecutionContext")
    assert (found.absent, found.wrong, found.unseen) == (set(), [], set())


def test_what_cannot_be_followed_is_told() -> None:
    assert reading("self.other.set_input_shape('x', (1,))").unseen == {"made_up.py: self.other.set_input_shape"}
    assert reading("self.other.name").unseen == set()


def test_names_end_with_their_function() -> None:
    source = "def one():\n  x = trt.Runtime(logger)\ndef two():\n  x.anything"
    assert reading(source).absent == set()


def test_signatures_as_pybind11_writes_them() -> None:
    text = """f(*args, **kwargs)
Overloaded function.

1. f(self: tensorrt_bindings.tensorrt.Builder, size: dict[str, int] = {'a': 1, 'b': 2}, name: str) -> bool

    f(self: no signature, in the middle of a text) -> None

2. f(self: tensorrt_bindings.tensorrt.Builder) -> list[tensorrt_bindings.tensorrt.Dims]
"""
    first, second = signatures("f", text)
    assert [(given.name, given.type, given.optional) for given in first.parameters] == [
        ("size", "dict[str, int]", True),
        ("name", "str", False),
    ]
    assert (second.parameters, second.returns) == ((), "list[Dims]")
