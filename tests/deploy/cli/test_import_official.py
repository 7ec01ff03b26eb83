"""`coda import-official`, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from coda_deploy import CodaTokenizer
from coda_runtime.cli.app import cli
from tests.golden import Golden, write_checkpoint


def test_a_published_checkpoint_becomes_a_tokenizer_folder(tmp_path: Path) -> None:
    golden = Golden("mar_v16384")
    official = write_checkpoint(golden.variant, tmp_path / "official")
    coda = [sys.executable, "-m", "coda_runtime.cli", "import-official"]
    result = subprocess.run(
        [*coda, official, "--variant", golden.variant, "--out", tmp_path / "tokenizer"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout == f"{tmp_path / 'tokenizer'}: mar_v16384, 680 tokens an image, 16384 codes\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official", "tokenizer"]

    tokenizer = CodaTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer.encode(torch.from_numpy(golden.image)[None]).numpy()
    latent = torch.from_numpy(golden.latent[:1])
    assert (tokenizer.quantizer.encode_step(latent, torch.from_numpy(ids)).numpy() == ids).mean() >= 0.999
    np.testing.assert_array_equal(tokenizer.quantizer.encode(latent), golden.ids[:1])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--variant", "flux_v65536"], 1, "error: no folder at"),
        (["--variant", "sd"], 2, "'sd' is not one of 'mar_v16384', 'flux_v65536'"),
        ([], 2, "Missing option '--variant'"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(
        cli, ["import-official", str(tmp_path / "official"), *arguments, "--out", str(tmp_path / "tokenizer")]
    )
    assert result.exit_code == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    for file in ("vae_ema.pth", "quantizer_ema.pth"):
        (official / file).write_bytes(b"cut")
    result = CliRunner().invoke(
        cli, ["import-official", str(official), "--variant", "mar_v16384", "--out", str(tmp_path / "tokenizer")]
    )
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "vae_ema.pth is cut, damaged" in line
    assert [path.name for path in tmp_path.iterdir()] == ["official"]
