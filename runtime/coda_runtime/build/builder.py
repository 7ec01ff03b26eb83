"""One ONNX file -> one engine, by whichever of the two libraries is passed in.

The network is strongly typed: the ONNX graph alone decides each layer's type, and TF32, which would round float32
products to 10 bits, is off. What came of it is counted layer by layer, and an engine of another precision is refused.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.tensorrt.library import EngineLibrary
from ..errors import BuildError, one_line
from ..format.precision import PRECISIONS
from ..io.atomic_files import staged_file
from .log import BuildLog
from .options import HARDWARE, BuildOptions

Watch = Callable[[str, int, int], None]
"""Called with a phase, the steps done in it and their number."""

_CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
_WEIGHTY = (*_CONVOLUTIONS, "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine as bytes. `layers` counts {layer type: {data type of its output: how many}}.

    `scratch_bytes` is the device memory that a context of each batch profile works in, None where the library did not
    tell it.
    """

    data: bytes
    layers: Mapping[str, Mapping[str, int]]
    scratch_bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ParsedNetwork:
    """A network of the library, with what it needs to live: the builder and the parser, which holds its weights.

    `log` has what the library tells.
    """

    builder: Any
    network: Any
    parser: Any
    log: BuildLog


def build_engine(
    library: EngineLibrary,
    onnx: Path,
    options: BuildOptions,
    *,
    precision: str,
    read: bytes | None = None,
    watch: Watch = lambda *_: None,
    listen: Callable[[str], object] = lambda _: None,
) -> BuiltEngine:
    """Build an engine from an ONNX file with one input of dynamic batch, computing in `precision`.

    It is built from the file's bytes where somebody has `read` and checked them already. `watch` is called in this
    thread; what it raises (KeyboardInterrupt too) cancels the build and comes out of here. `listen` is called with
    every message of the library that is no error, in any thread. Raises BuildError with the parser's or the builder's
    own messages, InputError for options the library lacks.
    """
    options.check_for(library)
    trt = library.module
    parsed = parse_network(library, onnx, onnx.read_bytes() if read is None else read, listen)
    builder, network, messages = parsed.builder, parsed.network, parsed.log.errors
    layers = layer_types(network)
    check_types(layers, precision, onnx.name)
    config = builder.create_builder_config()
    _configure(trt, builder, network, config, options)
    data = _run(trt, builder, network, config, watch)
    if data is None:
        raise BuildError(
            f"{library.title} {library.version} could not build an engine from {onnx.name}: "
            f"{_last(messages)}{_way_out(library, options, messages)}"
        )
    if options.timing_cache is not None and (cache := config.get_timing_cache()) is not None:
        with staged_file(options.timing_cache) as path:
            path.write_bytes(bytes(cache.serialize()))
    return BuiltEngine(data, layers, parsed.log.scratch_bytes(len(options.profiles)))


def parse_network(
    library: EngineLibrary, onnx: Path, data: bytes, listen: Callable[[str], object] = lambda _: None
) -> ParsedNetwork:
    """Parse an ONNX file, whose bytes are `data`. Raises BuildError with the parser's own messages."""
    trt = library.module
    log = BuildLog(trt, listen)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse(data):
        problems = [_explain(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(
            f"{library.title} {library.version} cannot parse {onnx.name}: {'; '.join(problems or log.errors)}; export "
            "the bundle again, or run this part with another backend"
        )
    return ParsedNetwork(builder, network, parser, log)


def layer_types(network: Any) -> dict[str, dict[str, int]]:
    """Count the layers of each kind in a network, for each data type of their first output.

    A convolution or product that reads what was just dequantised counts by what it was before: TensorRT computes in it.
    """
    counts: dict[str, Counter[str]] = {}
    dequantised: dict[str, str] = {}  # a tensor's own type before that, by its name after it
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if not layer.num_outputs:
            continue
        kind, found = layer.type.name, layer.get_output(0).dtype.name
        if kind == "DEQUANTIZE":
            dequantised[layer.get_output(0).name] = layer.get_input(0).dtype.name
        elif kind in _WEIGHTY:
            found = dequantised.get(layer.get_input(0).name, found)
        counts.setdefault(kind, Counter())[found] += 1
    return {kind: dict(sorted(types.items())) for kind, types in sorted(counts.items())}


def check_types(layers: Mapping[str, Mapping[str, int]], precision: str, file: str) -> None:
    """Raise BuildError when an engine's convolutions do not compute in `precision`.

    In float32, and where there are none, the matrix products count too. Of a lowered precision some, attention's scores
    and the sums of tokens, are float32 in any case.
    """
    wanted = PRECISIONS[precision]
    by_convolutions = not wanted.is_float32 and any(layers.get(kind) for kind in _CONVOLUTIONS)
    found = Counter[str]()
    for kind in _CONVOLUTIONS if by_convolutions else _WEIGHTY:
        found.update(layers.get(kind, {}))
    total, products = found.total(), "convolutions" if by_convolutions else "convolutions and matrix products"
    share = found[wanted.tensorrt_type] / total if total else 0.0
    if share < wanted.min_share:
        seen = ", ".join(f"{count} in {name}" for name, count in sorted(found.items())) or "none at all"
        raise BuildError(
            f"{file} is meant to be {precision}, and of its {total} {products} there are {seen}; export the bundle "
            "again"
        )


def _configure(trt: Any, builder: Any, network: Any, config: Any, options: BuildOptions) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)
    # TensorRT-RTX only: otherwise its engines allocate for themselves, which a CUDA graph cannot record.
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:
        config.set_flag(user_allocation)
    # What the inspector is asked for after the build.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware])
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.timing_cache is not None:
        _use_timing_cache(config, options.timing_cache)
    for batch in options.profiles:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((size, *rest) for size in batch))
        config.add_optimization_profile(profile)


def _use_timing_cache(config: Any, file: Path) -> None:
    """Read measured tactics. A file of another version or GPU is refused here, before minutes are spent."""
    measured = file.read_bytes() if file.exists() else b""
    # False: do not take over what another GPU measured.
    if not config.set_timing_cache(config.create_timing_cache(measured), False):
        raise BuildError(
            f"the timing cache {file} is for another version or GPU, or damaged; remove it, or name another file"
        )


def _run(trt: Any, builder: Any, network: Any, config: Any, watch: Watch) -> bytes | None:
    """Build in a thread, so that this one can pass progress on, and hear of Ctrl-C while it goes."""
    events: queue.SimpleQueue[tuple[str, int, int] | None] = queue.SimpleQueue()
    cancelled = threading.Event()
    config.progress_monitor = _monitor(trt, events, cancelled)
    result: list[bytes | None] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            made = builder.build_serialized_network(network, config)
            result.append(None if made is None else bytes(made))
        except BaseException as error:
            failure.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=work, name="coda-engine-build")
    thread.start()
    try:
        while True:
            try:
                event = events.get(timeout=0.2)  # a wait without an end would not be interrupted on every system
            except queue.Empty:
                continue
            if event is None:
                break
            watch(*event)
    except BaseException:
        cancelled.set()
        raise
    finally:
        thread.join()
    if failure:
        raise BuildError(f"the builder failed ({failure[0]})") from failure[0]
    return result[0]


def _monitor(trt: Any, events: queue.SimpleQueue[tuple[str, int, int] | None], cancelled: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the module is only known when it runs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            events.put((phase_name, 0, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            events.put((phase_name, step + 1, self._steps.get(phase_name, 0)))
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _explain(error: Any) -> str:
    # The parser's methods, not attributes: each is called.
    name, operator = error.node_name(), error.node_operator()
    return f"node {name or error.node()} ({operator or 'unknown operator'}): {one_line(error.desc(), limit=None)}"


def _last(messages: list[str]) -> str:
    return messages[-1][:400] if messages else "it gave no reason"


def _way_out(library: EngineLibrary, options: BuildOptions, messages: list[str]) -> str:
    text = " ".join(messages).lower()
    if "driver version is insufficient" in text or "cuda initialization failure" in text or "no cuda" in text:
        if library.targets and not options.targets:
            return f"; there is no GPU here to build for: name targets, some of {', '.join(library.targets)}"
        return "; there is no GPU here, or its driver is too old: build on the target machine"
    if "out of memory" in text or "insufficient workspace" in text:
        return "; give it more workspace, or a smaller MAX batch"
    return "; run again with another batch profile, or run this part with another backend"
