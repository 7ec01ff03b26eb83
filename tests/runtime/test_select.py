"""What may run here, and why not: asked of backends that answer as a test orders them to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coda_runtime import BackendError, BundleError, CodaError, EngineMismatchError, InputError
from coda_runtime.backends import registry
from coda_runtime.backends.base import LoadOptions, Session
from coda_runtime.errors import DeviceError, MissingDependencyError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.manifest import Artifact
from coda_runtime.select import alternatives, candidates, choose, choose_precision

ENGINE = {"library": "x"}
MEASURED = {"first:cpu": {"step_agreement": 1.0}}


class Answering:
    """A backend for the format "engine" that gives `reason`, and counts how often it is asked."""

    formats: tuple[str, ...] = ("engine",)
    precisions: tuple[str, ...] | None = None

    def __init__(self, name: str, reason: CodaError | None = None) -> None:
        self.name, self.reason, self.asked = name, reason, 0

    def missing(self) -> MissingDependencyError | None:
        return self.reason if isinstance(self.reason, MissingDependencyError) else None

    def check(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> CodaError | None:
        self.asked += 1
        return self.reason

    def load(self, bundle: Bundle, artifact: Artifact, options: LoadOptions) -> Session:
        raise AssertionError("nothing is loaded")


@pytest.fixture
def backends() -> Iterator[tuple[Answering, Answering]]:
    """Two backends for engines; "auto" takes `second` where `first` may not."""
    both = Answering("first"), Answering("second")
    with ExitStack() as stack:
        for backend in both:
            registry.register(backend.name, lambda backend=backend: backend)  # type: ignore[misc]
            stack.callback(registry.unregister, backend.name)
        yield both


@pytest.fixture
def bundle(sealed: Path) -> Bundle:
    """The tiny bundle, whose encoder is there as a measured engine too; no file of it is needed."""
    opened = Bundle.open(sealed)
    (onnx,) = opened.manifest.find("encoder", format="onnx")
    engine = dataclasses.replace(onnx, format="engine", file="encoder.engine", engine=ENGINE, parity=MEASURED)
    return Bundle(
        opened.folder, dataclasses.replace(opened.manifest, artifacts=(*opened.manifest.artifacts, engine)), b""
    )


Backends = tuple[Answering, Answering]


def test_each_backend_that_loads_the_format_is_reported_with_its_reason(bundle: Bundle, backends: Backends) -> None:
    first, second = backends
    first.reason = DeviceError("no GPU here")
    found = [(c.backend.name, c.artifact.file, c.reason) for c in candidates(bundle, _encoders(bundle), LoadOptions())]
    assert found == [
        ("onnxruntime", "encoder.fp32.onnx", None),
        ("first", "encoder.engine", first.reason),
        ("second", "encoder.engine", None),
    ]
    by_name = list(candidates(bundle, _encoders(bundle), LoadOptions(backend="second")))
    assert [(c.backend, c.artifact.format) for c in by_name] == [(second, "engine")]
    own = Answering("own")
    assert [c.backend for c in candidates(bundle, _encoders(bundle), LoadOptions(backend=own))] == [own]


def test_none_is_asked_before_its_turn(bundle: Bundle, backends: Backends) -> None:
    first, second = backends
    engines = bundle.manifest.find("encoder", format="engine")
    found = candidates(bundle, engines, LoadOptions())
    assert next(found).backend is first
    assert (first.asked, second.asked) == (1, 0)
    assert next(found).backend is second
    assert (first.asked, second.asked) == (1, 1)


def test_a_precision_that_a_backend_does_not_run(bundle: Bundle, backends: Backends) -> None:
    first, _ = backends
    first.precisions = ("fp16", "bf16")
    (found,) = candidates(bundle, _encoders(bundle), LoadOptions(backend="first"))
    assert "encoder.engine is in fp32, and first runs fp16, bf16; choose another" in str(found.reason)
    assert first.asked == 0
    first.precisions = ("fp32",)
    (found,) = candidates(bundle, _encoders(bundle), LoadOptions(backend="first"))
    assert (found.reason, first.asked) == (None, 1)


def test_what_a_part_runs_on(bundle: Bundle, backends: Backends) -> None:
    first, second = backends
    assert choose(bundle, "encoder", LoadOptions()).backend.name == "onnxruntime", "the most preferred that may"
    engines_alone = _without_onnx(bundle)
    assert choose(engines_alone, "encoder", LoadOptions()).backend is first
    first.reason = DeviceError("no GPU here")
    chosen = choose(engines_alone, "encoder", LoadOptions())
    assert (chosen.backend, chosen.artifact.file) == (second, "encoder.engine")
    assert chosen.passed_over == ("no GPU here",)


def test_where_none_may_run_a_name_tells_its_own_reason_and_auto_the_last(bundle: Bundle, backends: Backends) -> None:
    first, second = backends
    first.reason, second.reason = DeviceError("no GPU here"), MissingDependencyError("it needs a library", "numpy")
    engines_alone = _without_onnx(bundle)
    with pytest.raises(DeviceError, match="no GPU here"):
        choose(engines_alone, "encoder", LoadOptions(backend="first"))
    with pytest.raises(MissingDependencyError, match="it needs a library"):
        choose(engines_alone, "encoder", LoadOptions())


@pytest.mark.usefixtures("backends")
def test_an_engine_that_was_never_measured_is_not_chosen_unasked(bundle: Bundle) -> None:
    engines_alone = _without_onnx(bundle, parity={})
    with pytest.raises(EngineMismatchError, match=r"encoder\.engine was never measured.*coda verify .* --record"):
        choose(engines_alone, "encoder", LoadOptions())
    assert choose(engines_alone, "encoder", LoadOptions(backend="first")).artifact.file == "encoder.engine"


def test_what_a_record_prefers_is_asked_first_and_allowed_no_more(bundle: Bundle, backends: Backends) -> None:
    first, second = backends
    assert choose(bundle, "encoder", LoadOptions(), "second").backend is second
    assert first.asked == 0
    second.reason = DeviceError("no GPU here")
    chosen = choose(bundle, "encoder", LoadOptions(), "second")
    assert (chosen.backend.name, chosen.passed_over) == ("onnxruntime", ("no GPU here",))
    second.reason = None
    for preferred in ("cuda", "no-such"):
        assert choose(bundle, "encoder", LoadOptions(), preferred).backend.name == "onnxruntime"
    assert choose(bundle, "encoder", LoadOptions(backend="first"), "second").backend is first
    never = tuple(dataclasses.replace(of, parity={}) for of in bundle.manifest.artifacts)
    unmeasured = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, artifacts=never), b"")
    chosen = choose(unmeasured, "encoder", LoadOptions(), "second")
    assert chosen.backend.name == "onnxruntime"
    assert "encoder.engine was never measured" in chosen.passed_over[0]


def test_alternatives_of_a_precision(bundle: Bundle, backends: Backends) -> None:
    first, _ = backends
    first.reason = DeviceError("no GPU here")
    found = {name: reason for name, reason in alternatives(bundle, LoadOptions()) if name != "openvino"}
    assert found["onnxruntime"] is None
    assert found["first"] == "no GPU here"
    assert "its quantizer in fp32 only as onnx" in str(found["second"]), "one backend runs all parts, or is told"
    with pytest.raises(InputError, match="precision is 'fp16'"):
        list(alternatives(bundle, LoadOptions(precision="fp16")))


@pytest.mark.usefixtures("backends")
def test_providers_leave_onnxruntime_alone(bundle: Bundle) -> None:
    options = LoadOptions(providers=["CPUExecutionProvider"])
    assert choose(bundle, "encoder", options).passed_over == ()
    with pytest.raises(BackendError, match=r"its encoder in fp32 only as engine, which onnxruntime cannot load"):
        choose(_without_onnx(bundle), "encoder", options)


def test_what_there_is_nothing_for(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r'only as engine, which backend="auto" cannot load; export it as onnx'):
        choose(_without_onnx(bundle), "encoder", LoadOptions())
    with pytest.raises(
        BackendError, match=r"only as onnx, which tensorrt cannot load; build it: coda build .*tensorrt"
    ):
        choose(bundle, "decoder", LoadOptions(backend="tensorrt"))
    with pytest.raises(BackendError, match="backend is 'none'; expected one of"):
        choose(bundle, "encoder", LoadOptions(backend="none"))
    with pytest.raises(BackendError, match="backend is 7; expected a name"):
        choose(bundle, "encoder", LoadOptions(backend=7))  # type: ignore[arg-type]
    manifest = dataclasses.replace(bundle.manifest, artifacts=tuple(_encoders(bundle)))
    with pytest.raises(BundleError, match="has no quantizer in fp32, only in "):
        choose(Bundle(bundle.folder, manifest, b""), "quantizer", LoadOptions())


def test_precisions(bundle: Bundle) -> None:
    assert choose_precision(bundle.manifest, "auto") == choose_precision(bundle.manifest, "fp32") == "fp32"
    with pytest.raises(InputError, match="precision is 'fp16'; this bundle has \"auto\", 'fp32'"):
        choose(bundle, "encoder", LoadOptions(precision="fp16"))
    with pytest.raises(InputError, match=r"; add it: coda export TOKENIZER --into BUNDLE --precision bf16$"):
        choose(bundle, "encoder", LoadOptions(precision="bf16"))
    with pytest.raises(InputError, match=r"this bundle has \"auto\", 'fp32'$"):
        choose(bundle, "encoder", LoadOptions(precision="fp3"))


def _encoders(bundle: Bundle) -> list[Artifact]:
    return bundle.manifest.find("encoder")


def _without_onnx(bundle: Bundle, **changes: object) -> Bundle:
    kept = [a for a in bundle.manifest.artifacts if (a.part, a.format) != ("encoder", "onnx")]
    changed = tuple(dataclasses.replace(a, **changes) if a.format == "engine" else a for a in kept)  # type: ignore[arg-type]
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, artifacts=changed), b"")
