from __future__ import annotations

import pytest
import torch

from coda_deploy.evaluate import devices
from coda_deploy.evaluate.devices import network_device, torch_device
from coda_deploy.float32 import full_float32
from coda_runtime.errors import DeviceError, InputError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch says that it sees two."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("gpus")
def test_gpus_are_taken_where_they_are() -> None:
    assert [str(torch_device(name)) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        "cuda:0",
        "cpu",
        "cuda:0",
        "cuda:1",
    ]
    assert [str(network_device(name)) for name in ("auto", "cpu", "cuda:1", "cuda:5")] == [
        "cuda:0",
        "cpu",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(DeviceError, match=r"device is 'cuda:2', and PyTorch .* sees 2 NVIDIA GPUs"):
        torch_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
def test_a_missing_gpu_is_an_error_only_where_it_was_asked_for() -> None:
    assert str(torch_device("auto")) == "cpu"
    # A bundle may run on a GPU that PyTorch lacks.
    assert str(network_device("cuda")) == "cpu"
    with pytest.raises(DeviceError, match="sees 0 NVIDIA GPUs: give --device cpu"):
        torch_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU"])
def test_other_words_are_no_devices(name: str) -> None:
    with pytest.raises(InputError, match="device is"):
        torch_device(name)
    with pytest.raises(InputError, match="device is"):
        network_device(name)


def test_tf32_is_off_inside_and_as_before_outside() -> None:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    try:
        matmul.allow_tf32 = convolution.allow_tf32 = True
        with full_float32():
            assert (matmul.allow_tf32, convolution.allow_tf32) == (False, False)
        assert (matmul.allow_tf32, convolution.allow_tf32) == (True, True)
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


@pytest.mark.parametrize(("quota", "expected"), [(None, None), (1, 1), (1000, None)])
def test_pytorch_takes_no_more_threads_than_the_quota_gives(
    monkeypatch: pytest.MonkeyPatch, quota: int | None, expected: int | None
) -> None:
    monkeypatch.setattr(devices, "default_threads", lambda: quota)
    before = torch.get_num_threads()
    with devices.threads_of_quota():
        assert torch.get_num_threads() == (expected or before)
    assert torch.get_num_threads() == before
