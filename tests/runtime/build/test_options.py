from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coda_runtime import BackendError, BuildError, InputError, MissingDependencyError
from coda_runtime.backends.tensorrt.library import EngineLibrary, find_library
from coda_runtime.build.options import BuildOptions, parse_batch, parse_batches, parse_targets


@given(sizes=st.lists(st.integers(1, 9999), min_size=3, max_size=3))
def test_a_profile_is_read_as_it_is_written(sizes: list[int]) -> None:
    text = ",".join(map(str, sizes))
    assert parse_batch(f" {text} ") == tuple(sizes)
    if sizes == sorted(sizes):
        assert BuildOptions(batch=(sizes[0], sizes[1], sizes[2])).batch == tuple(sizes)
    else:
        with pytest.raises(InputError, match="expected MIN,OPT,MAX, rising, from 1"):
            BuildOptions(batch=(sizes[0], sizes[1], sizes[2]))


def test_several_profiles_come_in_one_order() -> None:
    one, other = parse_batches(["8,16,32", "1"]), parse_batches(["1,1,1", "8,16,32"])
    assert BuildOptions(batch=one).profiles == BuildOptions(batch=other).profiles == ((1, 1, 1), (8, 16, 32))
    assert BuildOptions(batch=[(2, 3, 4)]).profiles == BuildOptions(batch=(2, 3, 4)).profiles == ((2, 3, 4),)
    assert BuildOptions().profiles == ((1, 4, 8),)


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([(1, 1, 1), (8, 4, 32)], "batch is 8,4,32; expected MIN,OPT,MAX, rising, from 1"),
        ([(1, 1, 1), (2, 2, 2), (1, 1, 1)], "batch has the profile 1,1,1 twice; expected each once"),
        ([], "batch has 0 profiles; expected 1 to 16"),
        ([(size, size, size) for size in range(1, 18)], "batch has 17 profiles; expected 1 to 16"),
    ],
)
def test_several_profiles_that_are_none(batches: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        BuildOptions(batch=batches)


def test_one_number_is_a_fixed_batch() -> None:
    assert parse_batch("8") == (8, 8, 8)


@pytest.mark.parametrize("text", ["", "0,1,2", "1,2", "1,2,3,4", "a,b,c", "-1,2,3", "1,4,1e3", "1,4,100000"])
def test_profiles_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected MIN,OPT,MAX, such as 1,4,8, or one number"):
        parse_batch(text)


@pytest.mark.parametrize(
    ("text", "targets"),
    [("sm120,sm89", ("sm89", "sm120")), ("SM_86", ("sm86",)), ("8.9, 12.0", ("sm89", "sm120")), ("90", ("sm90",))],
)
def test_targets(text: str, targets: tuple[str, ...]) -> None:
    assert parse_targets(text) == targets


@pytest.mark.parametrize(("text", "match"), [("", "target is empty"), (",", "target is empty"), ("ada", "'ada'")])
def test_targets_that_are_none(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        parse_targets(text)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"targets": ("sm89", "sm89")}, "lists one twice"),
        ({"workspace_gib": 0}, "workspace is 0 GiB"),
        ({"workspace_gib": float("nan")}, "workspace is nan GiB"),
        ({"optimization_level": 6}, "optimization level is 6; expected 0 to 5"),
        ({"hardware": "turing"}, "'turing'; expected one of none, same-compute-capability, ampere-plus"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        BuildOptions(**settings)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (BuildOptions(targets=("sm90",)), r"has no target sm90; it has sm75, sm80"),
        (BuildOptions(timing_cache=Path("cache")), "takes no timing cache"),
        (BuildOptions(version_compatible=True), "no version- or hardware-compatible engines; name the GPUs as targets"),
        (BuildOptions(hardware="ampere-plus"), "no version- or hardware-compatible engines"),
    ],
)
def test_what_tensorrt_rtx_lacks(rtx: EngineLibrary, options: BuildOptions, match: str) -> None:
    with pytest.raises(InputError, match=match):
        options.check_for(rtx)


def test_tensorrt_builds_for_the_gpu_at_hand() -> None:
    library = EngineLibrary("tensorrt", "TensorRT", "11.4.0", types.SimpleNamespace())
    assert library.targets == ()
    BuildOptions(timing_cache=Path("cache"), version_compatible=True, hardware="ampere-plus").check_for(library)
    with pytest.raises(InputError, match="run `coda build` on the target machine, or take tensorrt-rtx"):
        BuildOptions(targets=("sm89",)).check_for(library)


def test_the_libraries(rtx: EngineLibrary) -> None:
    assert (rtx.name, rtx.title) == ("tensorrt-rtx", "TensorRT-RTX")
    assert {"sm86", "sm89", "sm120"} <= set(rtx.targets)
    with pytest.raises(InputError, match="engine is 'openvino'; expected one of tensorrt, tensorrt-rtx"):
        find_library("openvino")


def test_a_library_that_is_not_installed_names_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r'pip install "tensorrt>=10\.9"'):
        find_library("tensorrt")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a module with this code first on the path."""
    names = []

    def put(code: str, module: str = "tensorrt") -> None:
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module, raising=False)
        names.append(module)

    yield put
    for module in names:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("version", ["10.9.0.34", "10.13.3.9.post1", "11.4.0.106"])
def test_versions_that_are_supported(installed: Callable[..., None], version: str) -> None:
    installed(f"__version__ = {version!r}")
    assert find_library("tensorrt").version == version


@pytest.mark.parametrize(
    ("name", "module", "version", "match"),
    [
        ("tensorrt", "tensorrt", "10.8.0.43", 'TensorRT 10.8.0.43 is installed, and 10.9 or newer .*"tensorrt>=10.9"'),
        ("tensorrt", "tensorrt", "8.6.1", r"TensorRT 8\.6\.1 is installed, and 10\.9 or newer is needed"),
        ("tensorrt-rtx", "tensorrt_rtx", "1.6.1.120", 'TensorRT-RTX 1.6.1.120 is installed, and .*"tensorrt-rtx>=1.7"'),
    ],
)
def test_a_version_that_is_too_old(
    installed: Callable[..., None], name: str, module: str, version: str, match: str
) -> None:
    installed(f"__version__ = {version!r}", module)
    with pytest.raises(BackendError, match=match):
        find_library(name)


@pytest.mark.parametrize(
    ("code", "kind", "match"),
    [
        ("import libnvinfer_of_another_name", BackendError, r"does not import.*--force-reinstall .tensorrt>="),
        ("raise OSError('libnvinfer.so.11: cannot open')", BackendError, "libnvinfer.so.11: cannot open"),
        ("pass", BuildError, "does not say its version"),
    ],
)
def test_a_broken_installation(installed: Callable[..., None], code: str, kind: type[Exception], match: str) -> None:
    installed(code)
    with pytest.raises(kind, match=match):
        find_library("tensorrt")
