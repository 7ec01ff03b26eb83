"""int8 on OpenVINO: computed on integers where their sums come out right, in float32 where they do not, and told."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from coda_runtime import BackendError
from coda_runtime.backends import LoadOptions
from coda_runtime.backends.openvino import executed, integers
from coda_runtime.backends.openvino.backend import OpenVinoBackend
from coda_runtime.backends.openvino.session import OpenVinoSession
from coda_runtime.machine.processors import describe_cpu
from tests.runtime.backends.onnxruntime import graphs

pytest.importorskip("openvino", reason="openvino is not installed")

# All pixels white: 255 is 127 in scales of 2, the largest byte.
WHITE = np.full((1, 32, 32, 3), 255, np.uint8)


def load(folder: Path) -> OpenVinoSession:
    return OpenVinoBackend().load(*graphs.write_quantised(folder), LoadOptions(backend="openvino"))


def first_sum() -> float:
    """What the first convolution gives inside: 9 x 64 products of 127 and 127, in their scales."""
    return 9 * 64 * (127 * 2.0) * (127 / 4096)


def latent() -> float:
    """What the second gives inside, of the first's rounded to its own scale."""
    return 9 * 64 * min(127.0, round(first_sum() / 64)) * 64 * (127 / 4096)


def kinds(session: OpenVinoSession) -> list[str]:
    return [layer.precision for layer in executed.layers(session.compiled) if layer.is_convolution]


def inside(out: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return out[:, :, 4:-4, 4:-4]


def test_the_largest_sums_are_right_whatever_the_processor(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        session = load(tmp_path)
    np.testing.assert_allclose(inside(session.run(WHITE)), latent(), rtol=1e-4)


def test_it_is_computed_on_integers_where_they_are_exact(tmp_path: Path) -> None:
    if not integers.are_exact():
        pytest.skip("sums of bytes overflow on this processor")
    session = load(tmp_path)
    assert sum(kind in ("u8", "i8") for kind in kinds(session)) == 2, kinds(session)


def test_a_processor_with_instructions_for_it_is_exact() -> None:
    if not {"avx512_vnni", "amx_tile"} & set(describe_cpu()["flags"]):
        pytest.skip("this processor has neither VNNI nor AMX")
    assert integers.are_exact()


def test_where_they_overflow_float32_computes_and_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "are_exact", lambda: False)
    with pytest.warns(RuntimeWarning, match=r"sums of bytes overflow .* computes int8 graphs in float32, no faster"):
        session = load(tmp_path)
    assert set(kinds(session)) == {"f32"}
    np.testing.assert_allclose(inside(session.run(WHITE)), latent(), rtol=1e-4)


def test_float32_in_the_place_of_integers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO that leaves the graph's integers alone would be as slow as fp32, and nobody would know."""
    settings = integers.WITHOUT
    monkeypatch.setattr(integers, "are_exact", lambda: True)
    from coda_runtime.backends.openvino import backend

    own = backend._settings
    monkeypatch.setattr(backend, "_settings", lambda *given: {**own(*given), **settings})
    with pytest.raises(BackendError, match=r"encoder.int8.onnx is in int8, and this openvino .* 0 of 3 convolutions"):
        load(tmp_path)
