"""The exporter's yardstick is the tokenizer itself, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coda_deploy.reference import TorchReference
from coda_deploy.tokenizer.pixels import to_pixels
from tests.tiny_tokenizers import images, make

pytestmark = pytest.mark.numeric


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
