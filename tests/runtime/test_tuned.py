"""Records of `coda tune`: followed as far as they hold, told and ignored where they do not."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import coda_runtime
from coda_runtime import tuned
from coda_runtime.backends.base import LoadOptions
from coda_runtime.errors import InputError, OutputError
from coda_runtime.format.bundle import Bundle
from coda_runtime.format.parts import PARTS
from coda_runtime.format.precision import FP32
from coda_runtime.machine import processors
from coda_runtime.machine.devices import Gpu
from coda_runtime.tuned import Figures, Record, Setting, Tuned
from tests.runtime import second_backend, tiny

FIGURES = {name: Figures(1, 0.01, 100.0, 3, False) for name in tuned.TUNED}


@pytest.fixture
def bundle(sealed: Path) -> Bundle:
    return Bundle.open(sealed)


@pytest.fixture(autouse=True)
def _second() -> Iterator[None]:
    with second_backend.registered():
        yield


def recorded(bundle: Bundle, precision: str = FP32, **settings: Setting) -> Path:
    """Record these settings of parts, and ONNX Runtime's own threads for the others."""
    parts = dict.fromkeys(PARTS, Setting("onnxruntime", None)) | settings
    return tuned.save(tuned.make_record(bundle, "cpu", "a test", {precision: Tuned(parts, FIGURES)}), bundle)


def loaded(bundle: Bundle, **options: Any) -> dict[str, tuple[str, int, bool]]:
    """What each part runs on: backend, threads (0: the library's own number), and whether a record says so."""
    with coda_runtime.load(bundle.folder, **options) as tok:
        sessions: dict[str, Any] = dict(tok._sessions.sessions())
        threads = {
            part: session._session.get_session_options().intra_op_num_threads for part, session in sessions.items()
        }
        return {of.part: (of.backend, threads[of.part], of.tuned) for of in tok.artifacts}


def ignored(bundle: Bundle, match: str) -> None:
    """The record is told of, names `coda tune`, and nothing of it is followed."""
    with pytest.warns(RuntimeWarning, match=match) as told:
        assert {of[0] for of in loaded(bundle).values()} == {"onnxruntime"}
    (warning,) = told
    assert f"measure again: coda tune {bundle.folder}" in str(warning.message)
    assert warning.filename == __file__, "it points to who called load"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(of[2] for of in loaded(bundle).values()), "once told, it is silent, and ignored still"


def test_without_a_record_the_order_is_fixed(bundle: Bundle) -> None:
    assert loaded(bundle) == dict.fromkeys(PARTS, ("onnxruntime", 0, False))


def test_backend_and_threads_of_each_part_are_followed(bundle: Bundle) -> None:
    recorded(bundle, decoder=Setting("second", 1), encoder=Setting("onnxruntime", 1))
    expected = {"encoder": ("onnxruntime", 1, True), "quantizer": ("onnxruntime", 0, True)}
    assert loaded(bundle) == expected | {"decoder": ("second", 1, True)}
    assert loaded(bundle, device="cpu") == loaded(bundle)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ignore_tuning": True}, ("onnxruntime", 0, False)),
        ({"providers": ["CPUExecutionProvider"]}, ("onnxruntime", 0, False)),
        ({"backend": "onnxruntime"}, ("onnxruntime", 0, False)),
        ({"backend": "second"}, ("second", 1, True)),
        ({"backend": "second", "threads": 2}, ("second", 2, False)),
        ({"threads": 2}, ("second", 2, True)),
        ({"backend": second_backend.Second()}, ("second", 0, False)),
    ],
    ids=["ignored", "providers", "a backend", "the same backend", "both", "threads", "a backend of one's own"],
)
def test_what_is_asked_for_goes_before_the_record(
    bundle: Bundle, options: Mapping[str, Any], expected: tuple[str, int, bool]
) -> None:
    recorded(bundle, **dict.fromkeys(PARTS, Setting("second", 1)))
    assert loaded(bundle, **options) == dict.fromkeys(PARTS, expected)


@pytest.mark.skipif(not processors.has_avx2(), reason="reproducible ids need AVX2")
def test_reproducible_ids_follow_no_record(bundle: Bundle) -> None:
    recorded(bundle, **dict.fromkeys(PARTS, Setting("second", 1)))
    with coda_runtime.load(bundle.folder, reproducible=True) as tok:
        assert {(of.backend, of.tuned) for of in tok.artifacts} == {("onnxruntime", False)}


def test_a_record_changes_no_precision(bundle: Bundle) -> None:
    """It holds the best of each; what is loaded is the manifest's default, or what is asked for."""
    recorded(bundle, "bf16", **dict.fromkeys(PARTS, Setting("second", 1)))
    assert loaded(bundle) == dict.fromkeys(PARTS, ("onnxruntime", 0, False))


def test_a_backend_that_may_not_run_gives_way_and_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(bundle, decoder=Setting("second", 1))
    problem = InputError("not today")
    monkeypatch.setattr(second_backend.Second, "check", lambda self, *_: problem)
    with coda_runtime.load(bundle.folder) as tok:
        decoder = tok.artifacts[-1]
    assert (decoder.backend, decoder.tuned, decoder.passed_over) == ("onnxruntime", False, ("not today",))


@pytest.mark.parametrize(
    ("name", "then", "told"),
    [
        ("onnxruntime", "1.0.0", r"onnxruntime is '[0-9.]+' and was '1\.0\.0'"),
        ("a-library", "3", "a-library is not there and was '3'"),
        ("processor", "Another 3000", "processor is .* and was 'Another 3000'"),
        ("instructions", "", "instructions is .* and was ''"),
        ("cores", 999, r"cores is \d+ and was 999"),
        ("quota", 0.5, r"quota is .* and was 0\.5"),
        ("machine", "vax", "machine is .* and was 'vax'"),
    ],
)
def test_a_record_of_other_circumstances(bundle: Bundle, name: str, then: object, told: str) -> None:
    path = recorded(bundle, decoder=Setting("second", 1))
    data = json.loads(path.read_text())
    data["facts"][name] = then
    path.write_text(json.dumps(data))
    ignored(bundle, told)
    assert coda_runtime.load(bundle.folder).artifacts[-1].backend == "onnxruntime"


def test_a_library_that_came_later(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(bundle, decoder=Setting("second", 1))
    real = tuned.installed_version
    monkeypatch.setattr(
        tuned, "installed_version", lambda name: "9.9" if name == "onnxruntime-directml" else real(name)
    )
    ignored(bundle, "onnxruntime-directml is '9.9' and was not there")


def test_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "find_gpu", lambda index: Gpu(f"Made-up {index}", "sm90", "13.0"))
    found = tuned.facts_of("cuda:1")
    assert {name: found[name] for name in ("gpu", "capability", "driver")} == {
        "gpu": "Made-up 1",
        "capability": "sm90",
        "driver": "13.0",
    }
    assert "quota" not in found, "a container's quota does not change which engine is the fastest"
    monkeypatch.setattr(tuned, "count_cuda_devices", lambda: 2)
    assert [tuned.device_of(LoadOptions(name)) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        "cuda:0",
        "cpu",
        "cuda:0",
        "cuda:1",
    ]


def test_gpus_of_a_model_share_a_record(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ["Made-up 1", "Made-up 1", "Made-up 2"]
    monkeypatch.setattr(tuned, "find_gpu", lambda index: Gpu(models[index], "sm90", "13.0"))
    parts = dict.fromkeys(PARTS, Setting("onnxruntime", None))
    tuned.save(tuned.make_record(bundle, "cuda:0", "a test", {FP32: Tuned(parts, FIGURES)}), bundle)
    for device in ("cuda", "cuda:0", "cuda:1"):
        assert tuned.read(bundle, device) is not None
    assert tuned.read(bundle, "cpu") is None
    assert list(tuned.records(bundle)) == ["cuda"]
    with pytest.raises(InputError, match="gpu is 'Made-up 2' and was 'Made-up 1'"):
        tuned.read(bundle, "cuda:2")


def test_a_record_of_the_cpu_is_for_the_cpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU, "auto" means it: what was found on the CPU is for who names the CPU."""
    recorded(bundle, decoder=Setting("second", 1))
    monkeypatch.setattr(tuned, "count_cuda_devices", lambda: 1)
    assert loaded(bundle)["decoder"] == ("onnxruntime", 0, False)
    assert loaded(bundle, device="cpu")["decoder"] == ("second", 1, True)


def test_a_cut_record(bundle: Bundle) -> None:
    path = recorded(bundle, decoder=Setting("second", 1))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not followed: it is not JSON"):
            tuned.read(bundle, "cpu")
    ignored(bundle, "it is not JSON")


def _setting(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["precisions"][FP32]["parts"]["decoder"].update({name: value})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_setting("backend", "cuda"), "decoder.backend is 'cuda', which is none that backend=\"auto\" chooses from"),
        (_setting("backend", "no-such"), "decoder.backend is 'no-such'"),
        (_setting("backend", "x\x1b[2J"), "printable"),
        (_setting("threads", 0), "decoder.threads is 0; expected null, or a whole number from 1"),
        (_setting("threads", 1025), "decoder.threads is 1025"),
        (_setting("threads", True), "decoder.threads is True"),
        (_setting("threads", 1.0), r"decoder.threads is 1\.0"),
        (_setting("allow_host_code", True), "decoder has 'allow_host_code', which no record has"),
        (lambda data: data["precisions"][FP32]["parts"].pop("quantizer"), "precisions.fp32.parts is"),
        (lambda data: data["precisions"][FP32]["parts"].update(extra={}), "precisions.fp32.parts is"),
        (lambda data: data["precisions"][FP32]["measured"].pop("decode"), "expected encode and decode"),
        (lambda data: data["precisions"][FP32]["measured"]["encode"].update(latency_s=0), "expected a number over 0"),
        (lambda data: data["precisions"].update(fp3={}), "precisions has 'fp3'"),
        (lambda data: data.update(precisions=[]), r"precisions is \[\]; expected an object"),
        (lambda data: data.update(allow_host_code=True), "the record has 'allow_host_code'"),
        (lambda data: data.update(format="x"), "format is 'x'; expected \"coda-tuning\""),
        (lambda data: data.update(format_version=2), "format_version is 2; expected 1"),
        (lambda data: data.update(facts={"a": []}), "facts is"),
        (lambda data: data.update(device="cuda"), "belongs to another bundle or device"),
        (lambda data: data.update(device="cuda:0"), 'device is \'cuda:0\'; expected "cpu" or "cuda"'),
        (lambda data: data.update(bundle="a" * 64), "belongs to another bundle or device"),
        (lambda data: data.pop("aim"), "the key aim is missing"),
    ],
)
def test_a_forged_record(bundle: Bundle, change: Callable[[dict[str, Any]], object], told: str) -> None:
    path = recorded(bundle, decoder=Setting("second", 1))
    data = copy.deepcopy(json.loads(path.read_text()))
    change(data)
    path.write_text(json.dumps(data))
    ignored(bundle, told)


def test_a_backend_that_has_to_be_asked_for_by_name(bundle: Bundle) -> None:
    path = recorded(bundle, decoder=Setting("second", 1))
    with_second = path.read_text()
    with second_backend.registered(automatic=False):
        path.write_text(with_second)
        ignored(bundle, "decoder.backend is 'second'")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and modes are POSIX's")
@pytest.mark.parametrize(
    ("put", "told"),
    [
        (os.mkfifo, "it cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "it cannot be read"),
        (lambda path: path.mkdir(), "it cannot be read"),
        (lambda path: path.symlink_to(path), "it cannot be read"),
        (lambda path: (path.touch(0o600), os.truncate(path, 64 << 30)), "more than 65536 bytes"),
        (lambda path: path.write_text("[" * 1000 + "]" * 1000), "deep"),
        (lambda path: path.write_text('{"format": 1e999}'), "too large"),
    ],
    ids=["a pipe", "a device", "a folder", "a circle", "64 GiB", "deep", "a number"],
)
def test_what_is_no_record(bundle: Bundle, put: Callable[[Path], object], told: str) -> None:
    path = recorded(bundle)
    path.unlink()
    before = os.umask(0o077)
    try:
        put(path)
    finally:
        os.umask(before)
    started = time.monotonic()
    ignored(bundle, told)
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX's")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_others_may_write(bundle: Bundle, level: int) -> None:
    """The record, its folder, and coda's."""
    path = recorded(bundle, decoder=Setting("second", 1))
    (path, *path.parents)[level].chmod(0o777)
    with pytest.warns(RuntimeWarning, match="others than its user may have written it"):
        loaded(bundle)
    # coda's folder is closed by then, and what lay in it is gone: it is not believed once the folder is closed.
    assert loaded(bundle) == dict.fromkeys(PARTS, ("onnxruntime", 0, False))
    assert [stat.S_IMODE(of.stat().st_mode) for of in (recorded(bundle), path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ], "the next record is believed again"
    assert loaded(bundle)["encoder"][2]


def test_a_record_that_was_copied_from_another_bundle(bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle.open(tiny.make_minimal_bundle(tmp_path / "other"))
    artifacts = tuple(dataclasses.replace(of, sha256="b" * 64) for of in other.manifest.artifacts)
    foreign = Bundle(other.folder, dataclasses.replace(other.manifest, artifacts=artifacts), b"")
    assert tuned.bundle_key(foreign) != tuned.bundle_key(bundle)
    path = recorded(foreign, decoder=Setting("second", 1))
    shutil.copy(path, tuned.record_path(bundle, "cpu"))
    ignored(bundle, "belongs to another bundle or device")


def test_a_copy_of_the_bundle_shares_its_record(bundle: Bundle, copy: Callable[[Path], Path]) -> None:
    recorded(bundle, decoder=Setting("second", 1))
    assert loaded(Bundle.open(copy(bundle.folder)))["decoder"] == ("second", 1, True)


def test_a_failed_write_leaves_the_earlier_record(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recorded(bundle, decoder=Setting("second", 1))
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match=r"cannot be written .*No space left"):
        recorded(bundle)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_records_of_a_bundle_and_forgetting(bundle: Bundle) -> None:
    assert tuned.records(bundle) == {}
    path = recorded(bundle, decoder=Setting("second", 1))
    (found,) = tuned.records(bundle).values()
    assert isinstance(found, Record)
    assert found.precisions[FP32].parts["decoder"] == Setting("second", 1)
    assert Record.from_json(json.loads(path.read_text())) == found
    path.write_text("{")
    (told,) = tuned.records(bundle).values()
    assert "is not followed" in str(told)
    assert tuned.forget(bundle, "cpu") == path
    assert tuned.forget(bundle, "cpu") is None
    assert tuned.records(bundle) == {}


def test_without_a_home(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert loaded(bundle) == dict.fromkeys(PARTS, ("onnxruntime", 0, False))
    assert tuned.records(bundle) == {}
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        recorded(bundle)
