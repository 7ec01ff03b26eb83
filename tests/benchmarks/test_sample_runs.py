"""The page on claims has the tables and curves of the sample's runs as the committed logs give them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.claims.sample import RESULTS, curves, table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("images", ["photographs", "held_out"])
def test_the_page_has_the_rows(images: str) -> None:
    page = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    rows = table(json.loads((RESULTS / "sample-runs.json").read_text(encoding="utf-8")), images)
    assert all(f"| {' | '.join(row)} |" in page for row in rows)


def test_the_picture_is_that_of_the_logs() -> None:
    assert (ROOT / "docs/images/sample-runs.svg").read_text(encoding="utf-8") == f"{curves()}\n"


def test_the_card_has_the_shipped_runs_figures() -> None:
    card = (ROOT / "coda_deploy/sample/tokenizer/MODEL_CARD.md").read_text(encoding="utf-8")
    found = json.loads((RESULTS / "sample-runs.json").read_text(encoding="utf-8"))["sample"]["photographs"]
    keys = ("psnr", "ssim", "ms_ssim", "lpips", "lpips_alex", "dists", "ssimulacra2")
    for row, prefix in ((r"\*\*from tokens\*\*", ""), ("continuous VAE", "vae_")):
        cells = re.search(rf"^\| {row} \|(.*)\|$", card, re.MULTILINE)
        assert cells is not None
        numbers = [float(cell.strip(" *dB")) for cell in cells[1].split("|")]
        assert numbers == [round(found[prefix + key], {"psnr": 2, "ssimulacra2": 1}.get(key, 3)) for key in keys]
