"""Tokenizers of any height and width: the paper's formulas, the folded modules and NumPy agree on every schedule."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_deploy import CodaTokenizer
from coda_deploy.errors import ConfigError
from coda_deploy.folding import fold_tokenizer
from coda_deploy.tokenizer.config import TokenizerConfig
from coda_deploy.tokenizer.schedule import default_scales
from coda_export.graphs import quantizer_graph
from coda_export.kernels.tables import search_tables
from coda_runtime.codes.ids import split_ids
from coda_runtime.codes.quantizer import NumpyQuantizer
from coda_runtime.errors import InputError
from coda_runtime.format.sizes import Scales, Shape, scales_of
from tests.export.onnx_tools import run
from tests.tiny_tokenizers import make

pytestmark = pytest.mark.numeric

WIDE: Scales = ((1, 1), (2, 3), (3, 5), (6, 10))


@st.composite
def schedules(draw: st.DrawFn) -> Scales:
    """Rising heights and widths, of one to five scales."""
    steps = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), max_size=4))
    shapes: list[Shape] = [(draw(st.integers(1, 3)), draw(st.integers(1, 3)))]
    for down, across in steps:
        shapes.append((shapes[-1][0] + down, shapes[-1][1] + across))
    return scales_of(shapes)


@cache
def _small() -> CodaTokenizer:
    return make("shifted", vocab_size=23)


def _at(scales: Scales) -> CodaTokenizer:
    height, width = scales[-1] if isinstance(scales[-1], tuple) else (scales[-1],) * 2
    return _small().at_size((4 * height, 4 * width), scales)


@settings(max_examples=12, deadline=None)
@given(schedules())
def test_every_quantizer_finds_the_same_ids(scales: Scales) -> None:
    tokenizer = _at(scales)
    spec, folded = tokenizer.spec, fold_tokenizer(tokenizer).quantizer
    latent = torch.randn(2, spec.latent_channels, *spec.latent_shape, generator=torch.Generator().manual_seed(1))
    numpy = NumpyQuantizer(spec, search_tables(folded.search), folded.search.values.numpy())
    ids = tokenizer.quantizer.encode(latent).numpy()
    assert ids.shape == (2, spec.num_tokens)
    for found in (numpy.ids(latent.numpy()), folded(latent).numpy(), run(quantizer_graph(folded), latent.numpy())):
        # A near tie may fall the other way: each is judged by the search that its own earlier ids lead to.
        step = tokenizer.quantizer.encode_step(latent, torch.from_numpy(found)).numpy()
        assert (step == found).mean() >= 0.98
    assert [part.shape for part in split_ids(ids, spec)] == [(2, *shape) for shape in spec.scale_shapes]
    assert [part.shape for part in tokenizer.quantizer.split(torch.from_numpy(ids))] == [
        (2, *shape) for shape in spec.scale_shapes
    ]


@settings(max_examples=12, deadline=None)
@given(schedules(), st.data())
def test_prefixes_embed_as_the_folded_decoder_does(scales: Scales, data: st.DataObject) -> None:
    tokenizer = _at(scales)
    spec, decoder = tokenizer.spec, fold_tokenizer(tokenizer).decoder
    length = data.draw(st.sampled_from(spec.prefix_lengths))
    ids = torch.randint(spec.vocab_size, (2, length), generator=torch.Generator().manual_seed(length))
    padded = torch.nn.functional.pad(ids, (0, spec.num_tokens - length), value=spec.vocab_size)
    embedded = tokenizer.embed(ids)
    assert embedded.shape == (2, spec.latent_channels, *spec.latent_shape)
    torch.testing.assert_close(decoder.embed(padded), embedded, atol=1e-5, rtol=1e-5)


def test_another_size_keeps_the_weights_and_copies_them() -> None:
    small = make("sd")
    wide = small.at_size((24, 40), WIDE)
    assert (wide.spec.image_size, wide.spec.scales, wide.spec.num_tokens) == ((24, 40), WIDE, 82)
    assert wide.spec.resize == "cover, Lanczos"
    assert (small.spec.image_size, small.spec.scales) == (32, (1, 2, 3, 5, 8)), "the first one stays as it is"
    theirs = wide.state_dict()
    assert theirs.keys() == small.state_dict().keys()
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() != theirs[name].data_ptr()
    back = wide.at_size(32, (1, 2, 3, 5, 8))
    pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back.encode(pixels), small.encode(pixels))
    assert small.at_size((24, 40)).spec.scales == default_scales((6, 10))


def test_the_vae_takes_any_shape() -> None:
    small = make("sd", scales=(8,))
    wide = small.at_size((32, 64), ((8, 16),))
    pixels = torch.randint(256, (1, 32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert wide.encode_latent(pixels).shape == (1, 4, 8, 16)
    assert wide.decode(wide.encode(pixels)).shape == (1, 3, 32, 64)


def test_images_of_another_shape_are_refused() -> None:
    wide = make("sd").at_size((24, 40), WIDE)
    with pytest.raises(InputError, match=r"uint8 images must be \[B, 24, 40, 3\], found \[1, 40, 24, 3\]"):
        wide.encode(torch.zeros(1, 40, 24, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"must be float \[B, 3, 24, 40\].*found torch.float32 \[1, 3, 32, 32\]"):
        wide.encode(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("size", "scales", "message"),
    [
        ((24, 41), None, "image_size 24x41 is not a multiple of 4.*choose 24x40 or 24x44"),
        ((24, 40), ((1, 1), (10, 6)), r"\[\[1, 1\], \[10, 6\]\] must end at \[6, 10\], the latent's height and width"),
        ((24, 40), (1, 2, 6), r"must end at \[6, 10\]"),
        ((24, 9000), None, "image_size is .24, 9000."),
        ((4096, 8192), ((1024, 2048),), "scales must be whole numbers from 1 to 1024"),
    ],
)
def test_sizes_that_do_not_fit(size: Shape, scales: Scales | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("sd").at_size(size, scales)


def test_a_folder_of_a_rectangle(tmp_path: Path) -> None:
    wide = make("sd").at_size((24, 40), WIDE)
    wide.save_pretrained(tmp_path / "wide")
    told = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert (told["format_version"], told["image_size"]) == (1, [24, 40])
    assert told["scales"] == [[1, 1], [2, 3], [3, 5], [6, 10]]
    read = CodaTokenizer.from_pretrained(tmp_path / "wide")
    assert read.spec == wide.spec
    assert TokenizerConfig.from_json(told) == read.config
    pixels = torch.zeros(1, 24, 40, 3, dtype=torch.uint8)
    assert torch.equal(read.encode(pixels), wide.encode(pixels))


def test_a_step_of_training_reaches_every_scale() -> None:
    wide = make("sd").at_size((24, 40), WIDE).train()
    out = wide(torch.rand(4, 3, 24, 40) * 2 - 1, prefix_scales=2)
    assert out.prefix is not None
    assert (out.reconstruction.shape, out.prefix.shape) == ((4, 3, 24, 40), (1, 3, 24, 40))
    (out.reconstruction.square().mean() + out.vq_loss).backward()
    gradient = wide.quantizer.codebook.grad
    assert gradient is not None
    assert np.isfinite(gradient.numpy()).all()
    assert gradient.abs().sum() > 0
