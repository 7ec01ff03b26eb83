"""The path by which CUDA's arrays stay on the GPU, run on the CPU's memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from coda_runtime import ArtifactError, BackendError, DeviceError, InputError
from coda_runtime.backends.base import keeps_on_device
from coda_runtime.backends.onnxruntime.session import OrtArray, OrtDeviceSession, OrtSession
from tests.runtime.backends.onnxruntime import graphs

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def library_session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    bundle, artifact = graphs.write_convolutions(tmp_path_factory.mktemp("graph"), "fp32")
    path = bundle.path(artifact)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def session(library_session: Any) -> Iterator[OrtDeviceSession]:
    opened = OrtDeviceSession(onnxruntime, library_session, "cpu", ("cpu", 0))
    yield opened
    opened.close()


def test_it_computes_what_run_does(session: OrtDeviceSession) -> None:
    assert keeps_on_device(session)
    batch = graphs.images()
    out = session.run_on_device(batch)
    assert (out.shape, out.dtype, out.device) == ((2, 16, 32, 32), np.dtype(np.float32), "cpu")
    np.testing.assert_array_equal(out.numpy(), session.run(batch))


def test_what_is_no_tensor_is_an_error_of_the_bundle(library_session: Any) -> None:
    """Sequences do not come past the check of graphs; numpy would fail on a ragged one."""
    opened = OrtSession(onnxruntime, library_session, "cpu")
    ragged = [np.zeros((1, 2), np.float32), np.zeros(3, np.float32)]
    opened._session = SimpleNamespace(run=lambda *_: [ragged])
    with pytest.raises(ArtifactError, match="the graph returned a list, expected a tensor; export the bundle again"):
        opened.run(graphs.images())


def test_an_array_is_put_where_the_session_runs(session: OrtDeviceSession) -> None:
    batch = graphs.images()
    put = session.put(batch)
    put.wait()
    assert (put.shape, put.dtype, put.device) == (batch.shape, batch.dtype, "cpu")
    np.testing.assert_array_equal(session.run_on_device(put).numpy(), session.run(batch))
    with pytest.raises(BackendError, match=r"onnxruntime failed on complex128 \[2\] on cpu"):
        session.put(np.zeros(2, np.complex128))


def test_input_and_output_are_shared_not_copied(session: OrtDeviceSession) -> None:
    batch = torch.from_numpy(graphs.images())
    taken = session.take(batch)
    assert taken.value.data_ptr() == batch.data_ptr()
    batch[0] = 0  # seen by the session only if nothing was copied
    out = session.run_on_device(taken)
    np.testing.assert_array_equal(out.numpy(), session.run(batch.numpy()))
    assert torch.from_dlpack(out).data_ptr() == out.value.data_ptr()
    assert np.from_dlpack(out).ctypes.data == out.value.data_ptr()
    assert out.numpy().ctypes.data != out.value.data_ptr(), "a copy, which the next run does not change"


def test_a_tensor_may_be_passed_as_it_is(session: OrtDeviceSession) -> None:
    batch = torch.from_numpy(graphs.images())
    np.testing.assert_array_equal(session.run_on_device(batch).numpy(), session.run(batch.numpy()))


def test_the_output_outlives_the_session(library_session: Any) -> None:
    session = OrtDeviceSession(onnxruntime, library_session, "cpu", ("cpu", 0))
    batch = graphs.images()
    out = session.run_on_device(batch)
    tensor, kept = torch.from_dlpack(out), out.numpy()
    del out
    session.close()
    other = OrtDeviceSession(onnxruntime, library_session, "cpu", ("cpu", 0))
    for _ in range(3):
        other.run_on_device(255 - batch)
    np.testing.assert_array_equal(tensor.numpy(), kept)


def test_eight_threads_at_once(session: OrtDeviceSession) -> None:
    batches = [tiny for seed in range(8) for tiny in [np.roll(graphs.images(1 + seed % 3), seed * 3, axis=1)]]
    wanted = [session.run(batch) for batch in batches]

    def many(i: int) -> bool:
        return all(np.array_equal(session.run_on_device(batches[i]).numpy(), wanted[i]) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))
    assert not np.array_equal(wanted[0], wanted[3])


def test_arrays_it_cannot_take_are_rejected(session: OrtDeviceSession) -> None:
    with pytest.raises(InputError, match=r"by DLPack .*C-contiguous"):
        session.take(torch.from_numpy(graphs.images()).permute(0, 3, 1, 2))
    with pytest.raises(DeviceError, match=r"lies on device \(2, 0\) of DLPack, and the session runs on cpu"):
        session.take(Elsewhere())


@pytest.mark.parametrize(
    ("dtype", "named"), [("float64", "double"), ("bfloat16", "bfloat16"), ("int16", "int16"), ("bool", r"torch\.bool")]
)
def test_other_dtypes_are_named(session: OrtDeviceSession, dtype: str, named: str) -> None:
    with pytest.raises(InputError, match=rf"{named}.* one of uint8"):
        session.take(torch.zeros((1, 32, 32, 3), dtype=getattr(torch, dtype)))


def test_an_output_of_another_dtype_is_an_error() -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(3))
    with pytest.raises(BackendError, match=r"a tensor\(double\); expected one of tensor\(float\)"):
        _ = OrtArray(value, "cpu").dtype


def test_what_its_library_says_is_passed_on(session: OrtDeviceSession) -> None:
    with pytest.raises(InputError, match=r"require gradient.*\); pass a plain array, .*without gradients"):
        session.take(torch.zeros((1, 32, 32, 3), requires_grad=True))


class Elsewhere:
    """An array that says it lies on a GPU."""

    shape, dtype, device = (2, 32, 32, 3), np.dtype(np.uint8), "cuda:0"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("not to be taken by DLPack from another device")

    def numpy(self) -> Any:
        return graphs.images()


def test_an_array_on_another_device_is_copied(session: OrtDeviceSession) -> None:
    np.testing.assert_array_equal(session.run_on_device(Elsewhere()).numpy(), session.run(graphs.images()))


def test_a_copy_or_another_device_is_not_promised(session: OrtDeviceSession) -> None:
    out = session.run_on_device(graphs.images())
    with pytest.raises(BufferError, match="take a copy with numpy"):
        out.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        out.__dlpack__(dl_device=(2, 0))
    assert out.__dlpack__(dl_device=(1, 0), max_version=(1, 0), copy=False) is not None


def test_a_run_that_fails_gives_one_line(session: OrtDeviceSession) -> None:
    with pytest.raises(BackendError, match=r"onnxruntime failed on uint8 \[1, 5, 5, 3\] on cpu") as caught:
        session.run_on_device(np.zeros((1, 5, 5, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_an_output_that_lands_elsewhere_is_an_error(library_session: Any) -> None:
    """onnxruntime binds an output to a GPU that it has no provider for, and leaves it on the CPU."""
    session = OrtDeviceSession(onnxruntime, library_session, "cuda:0", ("cuda", 0))
    session._value = lambda batch: onnxruntime.OrtValue.ortvalue_from_numpy(batch)  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="left the output on cpu, expected cuda:0"):
        session.run_on_device(graphs.images())


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    from coda_runtime.backends import LoadOptions
    from coda_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    bundle, artifact = graphs.write_convolutions(tmp_path, "fp32")
    session = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cuda:0"))
    assert isinstance(session, OrtDeviceSession)
    batch = graphs.images()
    expected = OnnxRuntimeBackend().load(bundle, artifact, LoadOptions("cpu")).run(batch)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_gpu = torch.from_numpy(batch).cuda(non_blocking=True).roll(1, 0).roll(-1, 0)
        out = session.run_on_device(on_gpu)
    assert isinstance(out, OrtArray)
    assert out.__dlpack_device__() == (2, 0)
    np.testing.assert_allclose(torch.from_dlpack(out).cpu().numpy(), expected, rtol=1e-4, atol=1e-5)
