from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bundle", type=Path, metavar="DIR", help="time the stages of this bundle (fp32 and bf16), not of the sample's"
    )
    for name, default in (("backend", "auto"), ("device", "cpu"), ("precision", "auto")):
        parser.addoption(f"--{name}", default=default, help=f"`coda_runtime.load({name}=...)`; {default}")
