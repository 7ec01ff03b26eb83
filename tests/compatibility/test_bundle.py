"""A bundle that an earlier version exported: it loads, gives its ids and images, and passes every check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coda_runtime
from coda_runtime.format.bundle import Bundle
from coda_runtime.hub.push import push
from coda_runtime.parity import Threshold
from coda_runtime.parity.thresholds import recorded_thresholds
from tests.compatibility.versions import expected, readable, same_images
from tests.deploy.cli.command import coda, one_line
from tests.hub_server import Hub

REPO = "org/name"


@pytest.fixture
def tok(written: Path) -> Iterator[coda_runtime.Tokenizer]:
    with coda_runtime.load(written / "bundle", device="cpu", threads=1) as loaded:
        yield loaded


def figures(*arguments: object) -> dict[str, Any]:
    result = coda(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.mark.numeric
def test_ids_and_images(written: Path, tok: coda_runtime.Tokenizer) -> None:
    then = expected(written)
    assert {artifact.precision for artifact in tok.artifacts} == {"fp32"}
    ids = tok.encode(readable(written))
    assert (ids == then["ids"]).all()
    same_images(tok.decode(ids), then["decoded"])
    same_images(tok.decode(ids[:, : tok.spec.prefix_lengths[1]]), then["coarse"])
    np.testing.assert_allclose(tok.embed(ids), then["embedded"], atol=1e-5)


@pytest.mark.numeric
def test_a_lower_precision(written: Path) -> None:
    then = expected(written)
    with coda_runtime.load(written / "bundle", device="cpu", precision="fp16", threads=1) as tok:
        assert (tok.encode(readable(written)) == then["ids"]).mean() > 0.9
        assert np.abs(tok.decode(then["ids"]).astype(float) - then["decoded"]).mean() < 2


def test_its_own_account(written: Path) -> None:
    bundle = Bundle.open(written / "bundle")
    told = json.loads((written / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert figures("verify", bundle.folder)["bundle"] == str(bundle.folder)
    shown = figures("inspect", bundle.folder)
    assert shown["spec"].items() >= told["spec"].items()
    assert [entry["sha256"] for entry in shown["artifacts"]] == [entry["sha256"] for entry in told["artifacts"]]
    assert set(bundle.manifest.precisions) == {"fp32", "fp16", "bf16"}
    # What was measured when it was exported, and what could not be, with the reason.
    text = coda("inspect", bundle.folder).stdout
    parities = [(entry, numbers) for entry in told["artifacts"] for numbers in entry["parity"].values()]
    assert len(parities) == 8
    for entry, numbers in parities:
        (artifact,) = [artifact for artifact in bundle.manifest.artifacts if artifact.file == entry["file"]]
        assert artifact.is_measured == ("reason" not in numbers)
        if numbers.get("psnr") is not None:
            assert f"{numbers['psnr']:.1f} dB" in text
    assert recorded_thresholds(bundle.manifest) == dict.fromkeys(("fp32", "fp16", "bf16"), Threshold(0.5, 20.0))


def test_an_altered_file_is_found(written: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(written / "bundle", tmp_path / "bundle"))
    with (bundle / "codebook.fp32.npy").open("ab") as file:
        file.write(b"x")
    assert "codebook.fp32.npy" in one_line(coda("verify", bundle), silent=False)


@pytest.mark.numeric
def test_parity_is_measured_again(written: Path) -> None:
    """On the samples that it carries, and beside the tokenizer that it was made of."""
    graphs = {
        artifact.file for artifact in Bundle.open(written / "bundle").manifest.artifacts if "onnx" in artifact.file
    }
    for options in (("--parity",), ("--tokenizer", written / "tokenizer")):
        found = figures("verify", written / "bundle", *options)["parity"]
        assert found.keys() >= graphs
        (numbers,) = found["encoder.fp32.onnx"].values()
        assert numbers["step_agreement"] > 0.99


# huggingface_hub's own, where an upload does not go by Xet.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_its_card_is_known_as_ours(written: Path, hub: Hub) -> None:
    """What was pushed loads by its name, and a push of today writes the card anew, as it does with its own alone."""
    hub.push_folder(REPO, written / "bundle")
    with coda_runtime.load(REPO, device="cpu", threads=1) as tok:
        assert (tok.encode(readable(written)) == expected(written)["ids"]).all()
    assert push(written / "bundle", REPO).card
