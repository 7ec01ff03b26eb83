"""Every command where what it needs is not installed: one line that names the packages, and what pip installs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coda_runtime.cli.app import _DEPLOY
from coda_runtime.requirements import RUNTIME_EXTRAS, pip_install

Bare = Callable[..., Callable[..., subprocess.CompletedProcess[str]]]
CLI = ("numpy", "click", "rich", "pygments", "markdown_it", "mdurl")
ENGINE = ("onnxruntime", "flatbuffers", "google", "packaging")
PILLOW = ("PIL", "pillow")

ONNXRUNTIME, IMAGES = pip_install("onnxruntime"), pip_install("pillow")
HUB = pip_install("huggingface_hub")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, sealed: Path) -> Path:
    from coda_runtime import load
    from coda_runtime.codes.tokens_file import write_tokens

    with load(sealed) as tokenizer:
        ids = tokenizer.encode(np.zeros((1, tokenizer.spec.image_size, tokenizer.spec.image_size, 3), np.uint8))
        out = tmp_path_factory.mktemp("tokens") / "tokens.npz"
        write_tokens(out, ids, ["a.png"], tokenizer)
    return out


@pytest.mark.parametrize(
    ("packages", "command", "install"),
    [
        (CLI, "encode {bundle} {photos} --out out.npz", ONNXRUNTIME),
        ((*CLI, *ENGINE), "encode {bundle} {photos} --out out.npz", IMAGES),
        (CLI, "encode org/name {photos} --out out.npz", HUB),
        ((*CLI, *ENGINE, *PILLOW), "encode {bundle} {photos} --out out.npz --nvtx", pip_install("nvtx")),
        (CLI, "decode {bundle} {tokens} --out out", ONNXRUNTIME),
        ((*CLI, *ENGINE), "decode {bundle} {tokens} --out out", IMAGES),
        (CLI, "reconstruct {bundle} {photos} --out out", ONNXRUNTIME),
        ((*CLI, *ENGINE), "reconstruct {bundle} {photos} --out out", IMAGES),
        ((*CLI, *ENGINE), "bench run {bundle} --images {photos} --out out.json", IMAGES),
        (CLI, "build {bundle} --engine tensorrt", pip_install(*RUNTIME_EXTRAS["tensorrt"])),
        (CLI, "build {bundle} --engine tensorrt-rtx", pip_install(*RUNTIME_EXTRAS["tensorrt-rtx"])),
        (CLI, "serve {bundle}", pip_install("kserve", "pillow")),
        ((*CLI, *ENGINE, *PILLOW), "serve {bundle}", pip_install("kserve")),
        (CLI, "tokenize {bundle} {photos} --out out", pip_install("ray[data]", "pyarrow", "fsspec", "pillow")),
        (
            (*CLI, *ENGINE, *PILLOW, "fsspec"),
            "tokenize {bundle} {photos} --out out",
            pip_install("ray[data]", "pyarrow"),
        ),
        (CLI, "verify {bundle} --tokenizer x", None),
        (CLI, "push {bundle} org/name", HUB),
        (CLI, "pull org/name --out out", HUB),
        *((CLI, f"{name} x", None) for name in _DEPLOY),
        (("numpy",), "inspect {bundle}", pip_install("click", "rich")),
        (("numpy", "click"), "inspect {bundle}", pip_install("rich")),
    ],
)
def test_what_is_absent_is_named(
    bare: Bare,
    packages: tuple[str, ...],
    command: str,
    install: str | None,
    sealed: Path,
    photos: Path,
    tokens: Path,
) -> None:
    run = bare(*packages)
    done = run(*(word.format(bundle=sealed, photos=photos, tokens=tokens) for word in command.split()))
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    if install is None:
        assert line.endswith("install coda-deploy from the checkout or the wheel that this coda-runtime came from")
    else:
        assert line.endswith(f"{install}"), line
    assert "unexpected" not in line


@pytest.mark.parametrize("command", ["inspect {bundle}", "verify {bundle}", "doctor", "build {bundle} --triton out"])
def test_what_needs_nothing_works(bare: Bare, command: str, sealed: Path) -> None:
    done = bare(*CLI)(*(word.format(bundle=sealed) for word in command.split()))
    assert (done.returncode, done.stderr) == (0, "")
