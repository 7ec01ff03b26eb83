"""The exporter's yardstick is the tokenizer itself, in numpy."""

from __future__ import annotations

import numpy as np
import torch

from coda_deploy.reference import TorchReference, to_pixels
from tests.tiny_tokenizers import images, make


def test_numpy_in_and_out() -> None:
    tok = make()
    reference, pictures = TorchReference(tok), images()
    latent = reference.latent(pictures.numpy())
    np.testing.assert_array_equal(latent, tok.encode_latent(pictures).detach().numpy())
    ids = reference.encode(latent)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, tok.encode(pictures).numpy())
    np.testing.assert_array_equal(reference.step(latent, ids), ids)
    np.testing.assert_array_equal(reference.decode(ids), to_pixels(tok.decode(torch.from_numpy(ids))).numpy())


def test_read_only_arrays() -> None:
    reference, pictures = TorchReference(make()), images().numpy()
    pictures.flags.writeable = False
    latent = reference.latent(pictures)
    latent.flags.writeable = False
    assert reference.encode(latent).shape == (2, 103)


def test_pixels_are_rounded_and_clipped() -> None:
    levels = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, (100.4 - 127.5) / 127.5, (100.6 - 127.5) / 127.5])
    pixels = to_pixels(levels[None, None, None].expand(1, 3, 1, 7))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 100, 101]
