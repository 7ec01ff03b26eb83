"""`coda import-official` with what it must refuse; the golden tests of one variant are made by a run that succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from coda_runtime.cli.app import cli


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
