from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from coda_runtime.backends.ptx import KernelSet
from coda_runtime.backends.ptx.kernel_set import padded_channels
from coda_runtime.errors import ArtifactError, ManifestError
from coda_runtime.format.spec import Spec
from tests.runtime.backends.host_kernels import kernel_set

SPEC = Spec("test", 32, 8, 3, 29, (1, 2, 4), 21)
KERNELS = kernel_set(SPEC, 32)


def changed(path: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(KERNELS.to_json())
    place: Any = data
    *parents, last = (int(step) if step.isdecimal() else step for step in path.split("."))
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def test_json_and_back() -> None:
    assert KernelSet.from_json(json.loads(json.dumps(KERNELS.to_json()))) == KERNELS
    assert KernelSet.from_json({**KERNELS.to_json(), "later": 1}).to_json()["later"] == 1


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("kernels", {}, ManifestError),
        ("kernels.0.function", "decode", ManifestError),
        ("kernels.0.entry", "a b", ManifestError),
        ("kernels.0.arguments.0", ["residual", "*fp8"], ManifestError),
        ("kernels.1.warps", 3, ManifestError),
        ("kernels.1.bytes", 0, ManifestError),
        ("kernels.1.sizes.CODES", -1, ManifestError),
        ("kernels.1.sizes.CODES", ..., ArtifactError),
        ("kernels.1.sizes.BLOCK_CODES", 0, ArtifactError),
        ("targets", [], ManifestError),
        ("targets", "sm80", ManifestError),
        ("targets", ["sm_90a"], ManifestError),
        ("targets", ["sm80", "sm90a"], ManifestError),
        ("targets", ["sm80\n"], ManifestError),
        ("ptx_isa", 8.0, ManifestError),
        ("library", ..., ManifestError),
    ],
)
def test_what_does_not_load(path: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        KernelSet.from_json(changed(path, value))
    with pytest.raises(ManifestError, match="engine must be an object"):
        KernelSet.from_json(None)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("kernels.0.sizes.SIZE", 8, "pool_w16 has SIZE 8, and this tokenizer needs 4"),
        ("kernels.0.sizes.CHANNELS", 4, "needs 3"),
        ("kernels.3.sizes.LENGTH", 20, "needs 21"),
        ("kernels.4.sizes.CHANNELS_PADDED", 32, "needs 16"),
        ("kernels.2.sizes.CODES", 64, r"tables of \[32, 64\] codes"),
        ("kernels.2.sizes.QUERY", 6, "different lengths"),
        ("kernels.2.sizes.BLOCK_CODES", 12, "whole blocks"),
        ("kernels.4", KERNELS.to_json()["kernels"][0], None),
    ],
)
def test_kernels_of_another_tokenizer(path: str, value: Any, words: str | None) -> None:
    kernels = KernelSet.from_json(changed(path, value))
    if words is None:
        with pytest.raises(ArtifactError, match="no kernel 'subtract'"):
            kernels.of("subtract")
        return
    with pytest.raises(ArtifactError, match=words):
        kernels.check(SPEC)


def test_more_codes_than_the_kernels_search() -> None:
    KERNELS.check(SPEC)
    with pytest.raises(ArtifactError, match="this tokenizer has 33"):
        KERNELS.check(Spec("test", 32, 8, 3, 33, (1, 2, 4), 21))


def test_modules_are_cut_out_of_the_file() -> None:
    data, text = copy.deepcopy(KERNELS.to_json()), b""
    for kernel in data["kernels"]:
        module = f"// {kernel['function']}\n.visible .entry {kernel['entry']}(\n)\n".encode()
        kernel["offset"], kernel["bytes"] = len(text), len(module)
        text += module
    kernels = KernelSet.from_json(data)
    assert list(kernels.modules(text)) == ["pool_w16", "search_m2", "search_m8", "merge_s4", "subtract_p16"]
    for damaged in (text[:-1], text[1:], text.replace(b"merge_s4(", b"merge_s5(")):
        with pytest.raises(ArtifactError, match="the PTX has no kernel"):
            kernels.modules(damaged)


@pytest.mark.parametrize(("channels", "padded"), [(1, 16), (16, 16), (17, 32), (32, 32), (48, 64)])
def test_padded_channels(channels: int, padded: int) -> None:
    assert padded_channels(channels) == padded


def test_a_target_of_another_form_is_named() -> None:
    with pytest.raises(ManifestError, match=r"engine\.targets is \['sm_90a'\]; expected a list of .*\"sm80\""):
        KernelSet.from_json(changed("targets", ["sm_90a"]))
