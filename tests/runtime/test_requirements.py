"""The commands that messages give: each in the surroundings that change it."""

from __future__ import annotations

import pytest

from coda_runtime import requirements
from coda_runtime.requirements import how_to_install, needed, onnx_on_the_cpu, onnxruntime, package_of, pip_install


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, to be filled; nothing else is."""
    found: dict[str, str] = {}
    monkeypatch.setattr(requirements, "installed_version", found.get)
    return found


def test_a_command_has_the_versions_that_are_supported() -> None:
    assert pip_install("pillow", "s3fs") == 'pip install "pillow>=10.3" s3fs'
    assert pip_install("ray[data]", options="--force-reinstall") == 'pip install --force-reinstall "ray[data]>=2.60"'


def test_of_an_extra_what_is_absent_is_named_or_all_of_it(installed: dict[str, str]) -> None:
    assert needed("cli") == ("click", "rich")
    installed["click"] = "8"
    assert needed("cli") == ("rich",)
    installed["rich"] = "13"
    assert needed("cli") == ("click", "rich")


def test_torchvision_is_the_one_of_the_torch_that_is_here(installed: dict[str, str]) -> None:
    """Another one would replace it, and PyPI's does not start beside a CPU build."""
    assert pip_install("torchvision") == 'pip install "torchvision>=0.26"'
    installed["torch"] = "2.13.0"
    assert pip_install("torchvision") == 'pip install "torchvision==0.28.*"'
    installed["torch"] = "2.13.0+cpu"
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert pip_install("lpips", "torchvision") == f'pip install {index} "lpips>=0.1.4" "torchvision==0.28.*"'
    assert index not in pip_install("lpips")


def test_one_onnxruntime_is_never_put_beside_another(installed: dict[str, str]) -> None:
    assert onnxruntime() == "onnxruntime"
    assert onnx_on_the_cpu() == f": {pip_install('onnxruntime')}"
    installed["onnxruntime-gpu"] = "1.31.1"
    assert onnxruntime() == "onnxruntime-gpu"
    assert needed("openvino-plugin") == ("onnxruntime-ep-openvino",)
    assert onnx_on_the_cpu() == ""


def test_what_no_index_has_is_never_named_to_pip() -> None:
    assert how_to_install("pillow") == 'install it: pip install "pillow>=10.3"'
    assert how_to_install("click", "rich").startswith("install them: pip install ")
    for name in requirements.OWN:
        assert "pip" not in how_to_install(name)


def test_modules_and_their_packages() -> None:
    assert [package_of(name) for name in ("PIL.Image", "torch_fidelity", "ray.data", "cuda.core", "click")] == [
        "pillow", "torch-fidelity", "ray[data]", "cuda-core", "click",
    ]  # fmt: skip
    assert package_of("coda_runtime") is None
    assert package_of("") is None
