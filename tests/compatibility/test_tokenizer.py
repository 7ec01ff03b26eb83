"""Tokenizer folders of earlier versions, in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from coda_deploy import CodaTokenizer
from coda_runtime.images import fit
from tests.compatibility.versions import expected, readable, same_images


def pixels(written: Path, tokenizer: CodaTokenizer) -> Tensor:
    return torch.from_numpy(np.stack([fit(path, tokenizer.spec.image_size) for path in readable(written)]))


@pytest.mark.numeric
def test_ids_and_images(written: Path) -> None:
    then, tokenizer = expected(written), CodaTokenizer.from_pretrained(written / "tokenizer")
    assert tokenizer.checkpoint is None
    ids = tokenizer.encode(pixels(written, tokenizer))
    assert (ids.numpy() == then["ids"]).all()
    decoded = (127.5 * tokenizer.decode(ids) + 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    same_images(decoded.numpy(), then["decoded"])


@pytest.mark.numeric
def test_one_that_was_imported(written: Path) -> None:
    """Where its weights came from is told, and believed of these weights."""
    tokenizer = CodaTokenizer.from_pretrained(written / "imported")
    assert (tokenizer.encode(pixels(written, tokenizer)).numpy() == expected(written)["imported"]).all()
    told = json.loads((written / "imported" / "provenance.json").read_text(encoding="utf-8"))
    assert tokenizer.checkpoint == told["checkpoint"]


def test_what_is_saved_again_has_the_same_weights(written: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "imported"):
        CodaTokenizer.from_pretrained(written / name).save_pretrained(tmp_path / name)
        for file in ("model.safetensors", "provenance.json"):
            if (written / name / file).exists():
                assert (tmp_path / name / file).read_bytes() == (written / name / file).read_bytes()
