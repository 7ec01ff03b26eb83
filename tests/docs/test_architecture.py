"""The table of rooms is the contract that import-linter holds."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT


def test_rooms_of_the_runtime() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (rooms,) = (contract["layers"] for contract in contracts if contract["id"] == "rooms-of-the-runtime")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^\| room \|.*\n\| --- .*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table is not None
    drawn = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table[1].splitlines()]
    assert [set(row) for row in drawn] == [set(layer.split(" | ")) for layer in reversed(rooms)]
