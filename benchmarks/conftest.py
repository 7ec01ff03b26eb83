from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bundle", type=Path, metavar="DIR", help="time the stages of this bundle (fp32 and bf16), not of the sample's"
    )
    for name in ("backend", "device", "precision"):
        parser.addoption(
            f"--{name}", help=f"`coda_runtime.load({name}=...)` of every stage; without, fp32 and bf16 on the CPU"
        )
