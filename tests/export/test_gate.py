"""What must not pass: a graph that did not run, a floor that is no floor, a folder that is not ours to replace."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from coda_export import ParityError, Threshold
from coda_export.bundle import check_out
from coda_runtime.errors import InputError, OutputError
from coda_runtime.parity import NotMeasured, check_threshold


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_that_did_not_run_fails(precision: str) -> None:
    with pytest.raises(ParityError, match="could not be run, so its parity is unknown: no such operator"):
        check_threshold("decoder", precision, NotMeasured("no such operator", "psnr"), Threshold(0, 0))


def test_bf16_may_stay_unmeasured() -> None:
    check_threshold("decoder", "bf16", NotMeasured("no such operator", "psnr"), Threshold(0.9, 40))


@pytest.mark.parametrize(("agreement", "psnr"), [(math.nan, 50), (0.9, math.nan), (0.9, math.inf), (1.1, 50), (-1, 50)])
def test_a_threshold_is_a_number(agreement: float, psnr: float) -> None:
    with pytest.raises(InputError, match="a threshold must be an agreement from 0 to 1 and a finite PSNR"):
        Threshold(agreement, psnr)


def test_a_folder_with_a_foreign_manifest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": 3}))
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        check_out(tmp_path)


def test_a_bundle_with_a_file_of_the_users_is_kept(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    check_out(copy, replace=True)
    (copy / "notes.txt").write_text("mine")
    for replace in (False, True):
        with pytest.raises(OutputError, match=r"holds 'notes\.txt' beside a bundle"):
            check_out(copy, replace=replace)
