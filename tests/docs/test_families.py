"""docs/training.md has the registry's table of families."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the families are coda_deploy's")

from coda_deploy.families.table import BEGIN, END, families_table

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page_has_the_registry_s_table() -> None:
    between = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    assert between == families_table(), "put what families_table returns between the comments"
