"""What each extra brings, and the command of pip that brings it: the one table that messages are made from.

The two pyproject.toml repeat it for pip, and tests/test_packaging.py holds the three together. Messages name these
packages, never coda-runtime or coda-deploy: no index has those two, so that whoever registered them would be installed.
"""

from __future__ import annotations

OWN = ("coda-runtime", "coda-deploy")

ONNXRUNTIME_GPU = "onnxruntime-gpu[cuda,cudnn]"
"""By itself it brings neither CUDA nor cuDNN, and its provider does not start."""

RANGES = {
    "accelerate": ">=1.2",
    "click": ">=8.1",
    "cuda-bindings": ">=13",
    "cuda-core": ">=1.2",
    "datasets": ">=3",
    "diffusers": ">=0.36",
    "fsspec": ">=2024.6",
    "huggingface_hub": ">=0.34",
    "kserve": ">=0.21,<0.22",
    "lpips": ">=0.1.4",
    "numpy": ">=1.26",
    "nvtx": ">=0.2.13",
    "onnx": ">=1.18",
    "onnxruntime": ">=1.23.2,!=1.24.1",
    "onnxruntime-ep-openvino": ">=1.8",
    ONNXRUNTIME_GPU: ">=1.24.4",
    "onnxscript": ">=0.5",
    "openvino": ">=2026.4",
    "peft": ">=0.18",
    "pillow": ">=10.3",
    "pyarrow": ">=17",
    "ray[data]": ">=2.60",
    "rich": ">=13.7",
    "safetensors": ">=0.4.3",
    "scikit-image": ">=0.22",
    "ssimulacra2": ">=0.3",
    "tensorboard": ">=2.16",
    "tensorrt": ">=10.9",
    "tensorrt-rtx": ">=1.7",
    "timm": ">=1.0.9",
    "torch": ">=2.11",
    "torch-fidelity": ">=0.3",
    "torchmetrics": ">=1.4",
    "torchvision": ">=0.26",
    "triton": ">=3.9,<3.10",
    "wandb": ">=0.18",
}
"""The versions of each package, as pip writes them; the reason of each stands in pyproject.toml."""

ENGINE_EXTRAS = {
    "cpu": ("onnxruntime",),
    "gpu": (ONNXRUNTIME_GPU,),
    "openvino": ("openvino", "onnxruntime"),
    "openvino-plugin": ("onnxruntime", "onnxruntime-ep-openvino"),
    "tensorrt": ("tensorrt", "cuda-core", "cuda-bindings"),
    "tensorrt-rtx": ("tensorrt-rtx", "cuda-core", "cuda-bindings"),
    "cuda": ("cuda-core", "cuda-bindings"),
}
"""What runs bundles, one of them to an environment; extras of both wheels."""

RUNTIME_EXTRAS = {
    **ENGINE_EXTRAS,
    "images": ("pillow",),
    "cli": ("click", "rich"),
    "hub": ("huggingface_hub",),
    "serve": ("kserve", "pillow", "click", "rich"),
    "bulk": ("ray[data]", "pyarrow", "fsspec", "pillow", "click", "rich"),
    "nvtx": ("nvtx",),
}

DEPLOY_EXTRAS = {
    "train": ("lpips", "timm", "torchvision", "datasets", "tensorboard"),
    "wandb": ("wandb",),
    "eval": ("lpips", "scikit-image", "ssimulacra2", "torch-fidelity", "torchmetrics", "torchvision"),
    "kernels": ("triton",),
    "recipe": ("scikit-image",),
}
"""coda-deploy's own, beside those of the engines."""

ENGINE_LIBRARIES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-lean",
    "tensorrt-lean-cu12",
    "tensorrt-lean-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu13",
    "tensorrt-rtx-cu13-bindings",
    "cuda-core",
    "cuda-bindings",
)
"""Distributions that run bundles, or are a part of what does.

TensorRT comes as a package for one CUDA version under another that has none; the lean runtime only loads
version-compatible engines.
"""

_EXTRAS = {**RUNTIME_EXTRAS, **DEPLOY_EXTRAS}
_ONNXRUNTIMES = ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime")
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Where a package's module is not called as it is.
_MODULES = {"PIL": "pillow", "cuda": "cuda-core", "ray": "ray[data]", "skimage": "scikit-image"}


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    from importlib import metadata  # takes milliseconds to import, and only messages need it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def absent(extra: str) -> tuple[str, ...]:
    """Return those packages of an extra of either wheel that are not installed."""
    return tuple(name for name in _EXTRAS[extra] if not _is_installed(name))


def needed(extra: str) -> tuple[str, ...]:
    """Return the packages to name where an extra does not work: those that are absent, or else all of them."""
    return absent(extra) or _EXTRAS[extra]


def first_version(package: str) -> str:
    """Return the first version of a package that is supported here, such as "1.7"; each of RANGES begins with it."""
    return RANGES[package].removeprefix(">=").partition(",")[0]


def package_of(module: str) -> str | None:
    """Return the package of the table that brings a module, such as "PIL.Image"; None for all others."""
    name = module.partition(".")[0]
    return next((package for package in (_MODULES.get(name), name, name.replace("_", "-")) if package in RANGES), None)


def onnxruntime() -> str:
    """Return the distribution of onnxruntime that is installed, or else the CPU's: two of them break each other."""
    return next((name for name in _ONNXRUNTIMES if installed_version(name) is not None), "onnxruntime")


def onnx_on_the_cpu() -> str:
    """Return what running ONNX files on the CPU takes here, to follow on those words: ": pip install ...", or ""."""
    return "" if _is_installed("onnxruntime") else f": {pip_install('onnxruntime')}"


def pip_install(*packages: str, options: str = "") -> str:
    """Return the command that installs packages, each in the versions that are supported here.

    `options` are pip's, such as "--upgrade". A package that the table lacks is named as it is given.
    """
    index = []
    if "torchvision" in packages and (installed_version("torch") or "").endswith("+cpu"):
        index = ["--extra-index-url", _CPU_INDEX]  # PyPI's torchvision does not start beside a CPU build of PyTorch
    return " ".join(["pip install", *options.split(), *index, *map(_quoted, packages)])


def how_to_install(*packages: str) -> str:
    """Return "install it: pip install ..." for packages of an index, or where one of our own comes from."""
    own = [name for name in packages if name in OWN]
    if own:
        return f"install {own[0]} from the checkout or the wheel that this coda-runtime came from"
    return f"install {'it' if len(packages) == 1 else 'them'}: {pip_install(*packages)}"


def _is_installed(name: str) -> bool:
    # Any distribution of onnxruntime stands for it: a second one would break the first.
    distribution = onnxruntime() if name == "onnxruntime" else name.partition("[")[0]
    return installed_version(distribution) is not None


def _quoted(name: str) -> str:
    requirement = f"{name}{_range(name)}"
    return requirement if requirement.replace("-", "").replace("_", "").isalnum() else f'"{requirement}"'


def _range(name: str) -> str:
    # Each torchvision belongs to one torch: another one would replace the PyTorch that is here, a CPU build by
    # gigabytes of CUDA for one.
    torch = installed_version("torch") if name == "torchvision" else None
    if torch is not None and torch.startswith("2."):
        return f"==0.{int(torch.split('.')[1]) + 15}.*"
    return RANGES.get(name, "")
