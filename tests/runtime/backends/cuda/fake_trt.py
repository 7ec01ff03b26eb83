"""A module with TensorRT's API whose engines are ONNX files, run by onnxruntime on the driver's stand-in's streams.

An engine file is JSON: {"onnx": path, "profiles": [[min, opt, max], ...], ...what a test changes}.

tests/runtime/backends/tensorrt/test_fake.py holds each class to the library's own, of the name in `is_`: methods, their
parameters, properties and values. What is beside these and TensorRT has not is the fake's own, and stands in `OWN`.
"""

from __future__ import annotations

import ctypes
import enum
import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from .driver.controls import loaded

TYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}


class Mode(enum.Enum):
    """TensorIOMode."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Strategy(enum.Enum):
    """ExecutionContextAllocationStrategy."""

    STATIC = 0
    USER_MANAGED = 2


class Kernels(enum.Enum):
    """DynamicShapesKernelSpecializationStrategy, of TensorRT-RTX."""

    LAZY = 0
    EAGER = 1


class Form(enum.Enum):
    """LayerInformationFormat."""

    JSON = 1


class ILogger:
    is_ = "ILogger"
    OWN = frozenset({"initialised"})

    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        self.initialised = True


class Context:
    is_ = "IExecutionContext"
    OWN = frozenset({"shape", "addresses", "memory", "changes", "pending", "profile", "settled"})

    def __init__(self, engine: Engine) -> None:
        assert engine.trt.live is not None
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.changes = self.pending = 0
        self.profile, self.settled = 0, True
        engine.trt.contexts += 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self.engine.trt.fail_profile:
            return bool(self.engine.trt.complain(self.engine.trt.fail_profile))
        assert self.memory is None, "memory is for one profile"
        assert 0 <= profile_index < len(self.engine.profiles)
        self.profile, self.settled = profile_index, False
        self.engine.trt.switches += 1
        loaded().push(int(stream_handle), lambda: setattr(self, "settled", True))
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.settled, "the stream still copies what the profile needs"
        self.memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.settled, "the stream still copies what the profile needs"
        low, _, high = self.engine.profiles[self.profile]
        if not low <= shape[0] <= high:
            return bool(self.engine.trt.complain("set_input_shape: outside the profile"))
        assert self.pending == 0, "changed while its work is queued"
        self.changes += 1
        self.shape = tuple(shape)
        return bool(name == self.engine.names[0])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = int(memory)
        return name in self.engine.names

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else [self.engine.names[0]]

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, engine = self.engine.trt, self.engine
        assert self.memory is not None, "no scratch memory"
        needed = engine.get_device_memory_size_for_profile_v2(self.profile)
        assert self.memory[1] >= needed
        if trt.fail_execute:
            return bool(trt.complain(trt.fail_execute))
        recorded = loaded().is_capturing(int(stream_handle))
        assert not recorded or self.pending == 0, "recorded while its work is queued"
        if recorded and trt.fail_recorded:
            return bool(trt.complain("cannot be recorded"))
        state, scratch, shape = self.changes, self.memory[0], self.shape
        source, target = (self.addresses[name] for name in engine.names)

        def work() -> None:
            # TensorRT's rule: a graph is void once the context it was recorded from is changed.
            assert not recorded or self.changes == state, "the context was changed after its work was recorded"
            ctypes.memset(scratch, 1, needed)
            result = engine.compute(_at(source, shape, engine.dtypes[0]).copy())
            np.copyto(_at(target, result.shape, engine.dtypes[1]), result)
            self.pending -= not recorded
            trt.runs.append((shape[0], threading.get_ident()))
            trt.ran_in.append((self.profile, shape[0]))

        self.pending += not recorded
        loaded().push(int(stream_handle), work)
        return True


class CapturableContext(Context):
    """As TensorRT-RTX's."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.trt.capturable and loaded().is_stream(int(stream))


SCRATCH = 128
"""Bytes of scratch memory for an image of a profile's MAX."""


class RuntimeCache:
    """Of TensorRT-RTX: the names of engines that were compiled."""

    is_ = "IRuntimeCache"
    OWN = frozenset({"compiled"})

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def deserialize(self, blob: bytes) -> bool:
        self.compiled = json.loads(bytes(blob))
        return True

    def serialize(self) -> bytes:
        return json.dumps(self.compiled).encode()


class RuntimeConfig:
    is_ = "IRuntimeConfig"
    OWN = frozenset({"strategy", "cache"})
    cache: RuntimeCache | None = None

    def __init__(self) -> None:
        self.strategy: Strategy | None = None
        self.dynamic_shapes_kernel_specialization_strategy = Kernels.LAZY

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy


class CachingConfig(RuntimeConfig):
    """As TensorRT-RTX's."""

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class EngineInspector:
    is_ = "EngineInspector"
    OWN = frozenset[str]()

    def get_engine_information(self, format: Form) -> str:
        return json.dumps({"Layers": [format.name]})


class Engine:
    is_ = "ICudaEngine"
    OWN = frozenset({"trt", "session", "names", "real_names", "dtypes", "shapes", "profiles", "compute"})

    def __init__(self, trt: Any, told: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.trt = trt
        self.session = onnxruntime.InferenceSession(told["onnx"], options, providers=["CPUExecutionProvider"])
        ends = [self.session.get_inputs()[0], self.session.get_outputs()[0]]
        self.names = [told.get("input", ends[0].name), ends[1].name]
        self.real_names = [end.name for end in ends]
        self.dtypes = [np.dtype(TYPES[end.type]) for end in ends]
        self.shapes = [(-1, *end.shape[1:]) for end in ends]
        self.profiles = [tuple(profile) for profile in told["profiles"]]
        self.num_optimization_profiles = len(self.profiles)
        self.num_io_tensors = told.get("tensors", 2)
        if told.get("fixed"):
            self.shapes[0] = (told["fixed"], *self.shapes[0][1:])

    def compute(self, values: Any) -> Any:
        return self.session.run([self.real_names[1]], {self.real_names[0]: values})[0]

    def get_tensor_name(self, index: int) -> str:
        return str([*self.names, "extra"][index])

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == self.names[0] else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtypes[self.names.index(name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[self.names.index(name)]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == self.names[0]
        return [(count, *self.shapes[0][1:]) for count in self.profiles[profile_index]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH * int(self.profiles[profile_index][2])

    @property
    def device_memory_size_v2(self) -> int:
        return max(map(self.get_device_memory_size_for_profile_v2, range(len(self.profiles))))

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector()

    def create_runtime_config(self) -> RuntimeConfig:
        return CachingConfig() if self.trt.rtx else RuntimeConfig()

    def create_execution_context(self, strategy: Any) -> Context | None:
        if self.trt.fail_context:
            self.trt.complain(self.trt.fail_context)
            return None
        if not isinstance(strategy, Strategy):
            self.trt.eager += strategy.dynamic_shapes_kernel_specialization_strategy is Kernels.EAGER
            known = [] if strategy.cache is None else strategy.cache.compiled
            if self.session._model_path not in known:
                known.append(self.session._model_path)
                self.trt.compiled += 1
            strategy = strategy.strategy
        assert strategy is Strategy.USER_MANAGED
        return (CapturableContext if self.trt.rtx else Context)(self)


class Runtime:
    is_ = "Runtime"
    OWN = frozenset({"trt"})
    trt: Any

    def __init__(self, logger: Any) -> None:
        assert logger.initialised
        if self.trt.logger is None:  # as TensorRT does: a later one hears nothing
            self.trt.logger = logger
        self.trt.live = self
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        told = json.loads(serialized_engine)
        self.trt.host_code.append(self.engine_host_code_allowed)
        if told.get("damaged"):
            self.trt.complain("[runtime.cpp] version tag does not match\nsecond line")
            return None
        if told.get("throws"):
            raise RuntimeError("CUDA error: out of memory")
        return Engine(self.trt, told)


def _at(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    count = int(np.prod(shape)) * dtype.itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address)).view(dtype).reshape(shape)


def make(*, rtx: bool = False, version: str = "11.4.0.106") -> Any:
    """The module. A test reads what happened from it, and makes it fail."""
    trt = SimpleNamespace(
        __version__=version,
        ILogger=ILogger,
        TensorIOMode=Mode,
        ExecutionContextAllocationStrategy=Strategy,
        nptype=lambda trt_type: trt_type.type,
        LayerInformationFormat=Form,
        rtx=rtx,
        capturable=True,
        fail_execute="",
        fail_context="",
        fail_profile="",
        fail_recorded=False,
        contexts=0,
        eager=0,
        compiled=0,
        switches=0,
        runs=[],
        ran_in=[],
        host_code=[],
        live=None,
        logger=None,
    )
    if rtx:
        trt.DynamicShapesKernelSpecializationStrategy = Kernels
        trt.IRuntimeCache = RuntimeCache

    def complain(text: str) -> bool:
        trt.logger.log(ILogger.Severity.WARNING, "only a warning")
        trt.logger.log(ILogger.Severity.ERROR, text)
        return False

    trt.complain = complain
    trt.Runtime = type("Runtime", (Runtime,), {"trt": trt})
    return trt
