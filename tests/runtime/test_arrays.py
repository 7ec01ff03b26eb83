"""Arrays of other libraries in, by DLPack: in host memory as they lie, on a GPU only where all engines run there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coda_runtime import DeviceError, ImageError, InputError, TokenError, Tokenizer
from coda_runtime.arrays import host_view, on_gpu
from tests.runtime import tiny

torch = pytest.importorskip("torch")


class OnGpu:
    """What DLPack says of an array on the GPU 0."""

    shape, dtype = (1, 32, 32, 3), np.dtype(np.uint8)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("nobody may read it")


class OnOther(OnGpu):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 8, 0  # Metal


def test_a_torch_tensor_is_read_where_it_lies() -> None:
    tensor = torch.arange(6, dtype=torch.uint8)
    view = host_view(tensor, "images")
    assert isinstance(view, np.ndarray)
    assert view.ctypes.data == tensor.data_ptr()
    assert not on_gpu(tensor)
    array = np.zeros(3)
    assert host_view(array, "images") is array
    assert host_view("a path", "images") == "a path"


def test_a_tensor_without_values(tok: Tokenizer) -> None:
    ids = torch.zeros(1, tiny.TOKENS, dtype=torch.int32, device="meta")
    with pytest.raises(InputError, match="ids is on a device that is neither the host nor a CUDA GPU"):
        tok.decode(ids)
    assert not on_gpu(ids)


def test_tensors_in_are_arrays_in(tok: Tokenizer) -> None:
    images = tiny.photos(3)
    ids = tok.encode(torch.from_numpy(images))
    np.testing.assert_array_equal(ids, tok.encode(images))
    np.testing.assert_array_equal(tok.decode(torch.from_numpy(ids)), tok.decode(ids))
    np.testing.assert_array_equal(tok.decode(torch.from_numpy(ids).long()), tok.decode(ids))
    np.testing.assert_array_equal(tok.embed(torch.from_numpy(ids)), tok.embed(ids))
    np.testing.assert_array_equal(tok.reconstruct(torch.from_numpy(images)), tok.reconstruct(images))
    # A view whose axes are swapped is no copy, and is read right all the same.
    swapped = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(tok.encode(swapped), ids)


def test_arrays_out_are_tensors_without_a_copy(tok: Tokenizer) -> None:
    out = tok.decode(tok.encode(tiny.photos(2)))
    tensor = torch.from_dlpack(out)
    assert tensor.data_ptr() == out.ctypes.data


@pytest.mark.parametrize(
    ("tensor", "kind", "match"),
    [
        (torch.zeros(1, 32, 32, 3), ImageError, "float32; expected uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ImageError, "channels first"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.bfloat16), InputError, "cannot be read as a numpy array"),
        (torch.zeros(1, 32, 32, 3, requires_grad=True), InputError, "tensor.detach"),
    ],
)
def test_wrong_tensors(tok: Tokenizer, tensor: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        tok.encode(tensor)


def test_wrong_ids(tok: Tokenizer) -> None:
    with pytest.raises(TokenError, match="float32; expected int32"):
        tok.decode(torch.zeros(1, 21))
    with pytest.raises(TokenError, match="expected 0 to 15"):
        tok.decode(torch.full((1, 21), 16))


@pytest.mark.parametrize("name", ["encode", "decode", "reconstruct"])
def test_an_array_on_a_gpu_needs_engines_there(tok: Tokenizer, name: str) -> None:
    with pytest.raises(DeviceError, match=r'is on a GPU, and the \w+ runs on cpu; load .* device="cuda", or pass'):
        getattr(tok, name)(OnGpu())


def test_an_array_on_another_device(tok: Tokenizer) -> None:
    with pytest.raises(InputError, match="neither the host nor a CUDA GPU"):
        tok.encode(OnOther())
