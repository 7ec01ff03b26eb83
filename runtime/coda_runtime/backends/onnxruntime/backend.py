"""ONNX files on onnxruntime. Where it was asked to run is where it runs: fallback is off and the result is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import ArtifactError, BackendError, CodaError, DeviceError, DeviceMemoryError, MissingDependencyError
from ...format.bundle import Bundle
from ...format.manifest import Artifact
from ...format.parts import SEARCHING
from ...format.precision import precision_of
from ...io.counts import count
from ...machine.processors import default_threads, usable_count
from ...requirements import ONNXRUNTIME_GPU, onnxruntime, pip_install
from ..base import Backend, LoadOptions
from . import library, reproducible, sums
from .placement import placed, work_on_cpu
from .plugins import OPENVINO, canonical
from .providers import CPU, CUDA, NVIDIA, TENSORRT, Choice, choose, follow_device, names
from .session import OrtDeviceSession, OrtRowsSession, OrtSession

# A bundle is three sessions, each with its own threads. Between two operators these wait busily for the next one, for
# waking them costs more; but not once the run has ended, where they would hold the cores that the next part needs.
# benchmarks/bench_spinning.py compares the ways.
SPINNING = {"session.force_spinning_stop": "1", "session.intra_op.spin_duration_us": "1000"}
# What onnxruntime makes of scales is meant for its CPU provider. It turns each bias into int32 with a scale too, which
# no CUDA kernel reads: every convolution would wait for its bias from the CPU.
_AS_IT_IS = MappingProxyType({"session.disable_quant_qdq": "1"})
_FALLBACK_DISABLED = "fallback to CPU EP has been explicitly disabled"


@dataclass(frozen=True)
class _Model:
    """A file and its bytes: those that were checked are loaded, and the path is only told."""

    path: Path
    data: bytes = field(repr=False)


class OnnxRuntimeBackend(Backend):
    """Loads `.onnx` files on the CPU, by plugins such as OpenVINO's, or by CUDA and TensorRT."""

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)
    precisions: tuple[str, ...] | None = None

    def missing(self) -> MissingDependencyError | None:
        """Return None if onnxruntime is installed, of whichever distribution."""
        return library.missing()

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        """Return why a file in bf16 does not run here: without a GPU only OpenVINO does it. None for all that may."""
        missing = self.missing()
        if missing is not None:
            return missing
        if options.reproducible and (problem := reproducible.problem(artifact)) is not None:
            return problem
        if precision_of(artifact.precision).onnxruntime_cpu or options.providers is not None:
            return None
        try:
            follow_device(library.load_library(), options, artifact)
        except CodaError as error:
            return error
        return None

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> OrtSession:
        """Load one file.

        Providers that are named without CPUExecutionProvider must take the whole graph. A plugin's that cannot load
        it gives way to those named after it; OpenVINO, which lacks the Scan that quantizers hold, gives way to the
        CPU provider for a quantizer. `device` of the session says what it runs on.

        Raises ArtifactError, BackendError, DeviceError, DeviceMemoryError, InputError, MissingDependencyError.
        """
        ort, path, data = library.load_library(), bundle.path(artifact), bundle.read(artifact)
        model = _Model(path, reproducible.without_softmax(data) if options.reproducible else data)
        choices = choose(ort, options, artifact)
        rest = choices[1:]
        if not rest and artifact.part in SEARCHING and choices[0].name == OPENVINO:
            rest = [Choice(CPU)]
        try:
            session = _open(ort, model, choices, options, artifact)
        except DeviceMemoryError:
            raise
        except CodaError:
            if not (choices[0].devices and rest):
                raise
            choices = rest
            session = _open(ort, model, choices, options, artifact)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArtifactError(
                f"{path} has {count(len(inputs), 'input')} and {count(len(outputs), 'output')}; expected one of each; "
                "export it again"
            )
        device = _device(ort, session, model, choices, options, artifact)
        if choices[0].name in (CUDA, TENSORRT):
            return OrtDeviceSession(ort, session, device, ("cuda", int(choices[0].options["device_id"])))
        if options.reproducible:
            return OrtRowsSession(ort, session, device, options.threads or usable_count())
        return OrtSession(ort, session, device)


def _open(ort: Any, model: _Model, choices: Sequence[Choice], options: LoadOptions, artifact: Artifact) -> Any:
    """Return an InferenceSession on these providers and no others."""
    strict = CPU not in [choice.name for choice in choices]
    try:
        session = _make(ort, model, choices, options, strict, _own_options(ort, choices, options, artifact))
    except BackendError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base, and plain RuntimeErrors come too
        raise _load_error(ort, model, choices, options, artifact, error) from error
    session.disable_fallback()
    wanted, got = [choice.name for choice in choices], session.get_providers()
    if [canonical(name) for name in got[: len(wanted)]] != wanted:
        raise DeviceError(
            f"asked onnxruntime for {', '.join(wanted)} and it runs {model.path.name} on {', '.join(got)}: the "
            'provider is installed but does not start; see `coda doctor`, or pass device="cpu"'
        )
    return session


def _own_options(ort: Any, choices: Sequence[Choice], options: LoadOptions, artifact: Artifact) -> Mapping[str, str]:
    """Return the options of a session that its precision asks for. Raises BackendError where it cannot be right."""
    first = choices[0]
    if not precision_of(artifact.precision).is_integer:
        return {}
    if first.name in NVIDIA:
        return _AS_IT_IS

    def make(model: bytes, own: Mapping[str, str]) -> Any:
        return _make(ort, _Model(Path("sums.onnx"), model), [first], options, False, own)

    return sums.options_for(first.name, make)


def _make(
    ort: Any,
    model: _Model,
    choices: Sequence[Choice],
    options: LoadOptions,
    strict: bool,
    own: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = library.SILENT
    if choices[0].name in NVIDIA:
        library.silence(ort)
    for entry, value in {**SPINNING, **own}.items():
        settings.add_session_config_entry(entry, value)
    if options.reproducible:
        reproducible.set_order(ort, settings)
    elif (threads := default_threads() if options.threads is None else options.threads) is not None:
        settings.intra_op_num_threads = threads
    if choices[0].name != CPU:
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if strict:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # enable_fallback=0: otherwise a provider that fails is replaced by the CPU, with a note on stdout.
    if not any(choice.devices for choice in choices):
        providers = [(choice.name, choice.options) if choice.options else choice.name for choice in choices]
        return _session(ort, model, settings, providers=providers)
    for choice in choices:
        passed = {name: str(value) for name, value in choice.options.items()}
        if choice.devices:
            settings.add_provider_for_devices(list(choice.devices), passed)
        else:
            settings.add_provider(choice.name, passed)
    return _session(ort, model, settings)


def _session(ort: Any, model: _Model, settings: Any, **providers: Any) -> Any:
    # By default onnxruntime takes bytes for a format of its own where they look like it.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    session = ort.InferenceSession(model.data, settings, enable_fallback=0, **providers)
    # It keeps them to start again on other providers, which is off; they are as large as the weights.
    session._model_bytes = None
    return session


def _load_error(
    ort: Any, model: _Model, choices: Sequence[Choice], options: LoadOptions, artifact: Artifact, error: Exception
) -> ArtifactError | DeviceError | DeviceMemoryError:
    path, where, told = model.path, names(choices), library.cause(error)
    if library.is_out_of_memory(str(error)):
        return DeviceMemoryError(
            f"{choices[0].device} has no memory left to load {path} ({told}); close what else uses its memory"
        )
    if _FALLBACK_DISABLED in str(error):
        try:
            session = _make(ort, model, choices, options, strict=False)
            left = {node.operator for node in placed(session) or () if node.provider == CPU}
        except Exception:  # it is made only to name the operators
            left = set()
        return DeviceError(
            f"{where} cannot run all of {path}: {', '.join(sorted(left)) or 'some operators'} would run on the CPU "
            f"provider; to allow that name {CPU} after it, or choose another provider"
        )
    advice = library.conflict_advice("gpu" if choices[0].device.startswith("cuda") else "cpu")
    if advice is None and choices[0].name == CPU and not precision_of(artifact.precision).onnxruntime_cpu:
        lacks = f"its CPU provider has no {artifact.precision}"
        advice = f"{lacks}; name no provider, and what can run it here is found or named"
    if advice is None:
        advice = (
            "the file is damaged, or this onnxruntime is too old or lacks an operator: "
            f"{pip_install(onnxruntime(), options='--upgrade')}, or choose another precision"
        )
    return ArtifactError(f"onnxruntime {ort.__version__} cannot load {path} on {where} ({told}); {advice}")


def _device(
    ort: Any, session: Any, model: _Model, choices: Sequence[Choice], options: LoadOptions, artifact: Artifact
) -> str:
    """Return where the graph runs; with "+cpu" where the caller lets a provider leave more than shapes to the CPU's."""
    device, wanted = choices[0].device, [choice.name for choice in choices]
    if CPU not in wanted[1:]:  # it was made to fail where anything would run there
        return device
    nodes, update = placed(session), pip_install(ONNXRUNTIME_GPU, options="--upgrade")
    if nodes is None and options.providers is None:
        raise DeviceError(
            f"onnxruntime {ort.__version__} does not tell what of {model.path} it would run on the CPU; "
            f"update it: {update}, or name the providers yourself"
        )
    work = work_on_cpu(nodes or [], model.data)
    if not work:
        return device
    if options.providers is None:
        other = "export the bundle again" if artifact.part in SEARCHING else "choose another precision"
        raise DeviceError(
            f"{wanted[0]} leaves {', '.join(sorted(work))} of {model.path} to the CPU, activations and all; "
            f"update onnxruntime: {update}, {other}, or name {CPU} after it in providers to allow it"
        )
    return f"{device}+cpu"
