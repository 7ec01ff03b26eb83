"""The kernels on latents and scales that are no squares: by Triton's interpreter, and compiled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from coda_export.kernels.compile import compile_quantizer
from coda_export.kernels.tables import search_tables
from coda_runtime.backends.ptx import make_plan
from coda_runtime.backends.ptx.screening import FROM_TOKENS
from coda_runtime.errors import ArtifactError
from coda_runtime.format.sizes import Shape
from tests.export.kernels.cases import SMALL_BLOCKS, random_latent, random_quantizer, reference, run_kernels
from tests.export.kernels.interpreter import SMALL, Interpreter, uncompiled

pytestmark = pytest.mark.numeric

SCHEDULES: dict[str, tuple[Shape, ...]] = {
    "wide": ((1, 1), (2, 3), (3, 5)),
    "tall": ((1, 1), (5, 1), (7, 4)),
    "a strip": ((1, 2), (1, 3), (1, 9)),
    "a square in oblong steps": ((1, 1), (2, 3), (4, 4)),
}


# Every scale by halves and settled, or all of these few tokens in float32.
WAYS = pytest.mark.parametrize("screen_from", [1, FROM_TOKENS], ids=["screened", "searched"])


@WAYS
@pytest.mark.parametrize("scales", SCHEDULES.values(), ids=SCHEDULES)
def test_ids_are_those_of_the_folded_quantizer(
    scales: tuple[Shape, ...], screen_from: int, interpreter: Interpreter
) -> None:
    quantizer = random_quantizer(100, scales, norm="layer", dim=20)
    latent = random_latent(quantizer, 2)
    ids = interpreter.ids(quantizer, latent, screen_from=screen_from)
    np.testing.assert_array_equal(ids, quantizer(torch.from_numpy(latent)).numpy())
    np.testing.assert_array_equal(ids, reference(quantizer).step(latent, ids))
    assert len(np.unique(ids)) > 3


def test_compiled_to_ptx() -> None:
    quantizer = random_quantizer(60, SCHEDULES["wide"])
    made = compile_quantizer(quantizer.spec, search_tables(quantizer.search), blocks=SMALL_BLOCKS)["sm80"]
    assert {kernel.function for kernel in made[1].kernels} >= {"pool_rectangle", "subtract_rectangle"}
    latent = random_latent(quantizer, 3)
    expected = quantizer(torch.from_numpy(latent)).numpy()
    for screen_from in (1, FROM_TOKENS):
        np.testing.assert_array_equal(run_kernels(made, quantizer, latent, screen_from=screen_from), expected)


def test_kernels_of_another_shape_are_refused() -> None:
    wide, square = random_quantizer(60, SCHEDULES["wide"]), random_quantizer(60, (1, 2, 5))
    tables = search_tables(wide.search)
    turned = dataclasses.replace(wide.spec, image_size=(40, 24), scales=((1, 1), (3, 2), (5, 3)))
    with pytest.raises(ArtifactError, match="HEIGHT 3, and this tokenizer needs 5"):
        uncompiled(wide.spec, tables, SMALL).check(turned)
    with pytest.raises(ArtifactError, match="no kernel 'pool_rectangle'"):
        make_plan(
            uncompiled(dataclasses.replace(square.spec, num_tokens=wide.spec.num_tokens), tables, SMALL), wide.spec, 1
        )
