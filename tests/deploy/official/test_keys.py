"""Every tensor of the published variants has its official name and shape, and no two share one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from coda_deploy import CodaTokenizer
from coda_deploy.official.keys import as_ldm, official_key
from coda_deploy.tokenizer.variants import VARIANTS
from tests.golden import DATA


@pytest.mark.parametrize("variant", ["mar_v16384", "flux_v65536"])
def test_names_and_shapes_are_the_official_ones(variant: str) -> None:
    with torch.device("meta"):
        state = CodaTokenizer(VARIANTS[variant]).state_dict()
    found: dict[str, dict[str, Any]] = {}
    for key, tensor in state.items():
        file, name = official_key(key, ldm=variant.startswith("mar"))
        assert name not in found.setdefault(file, {}), f"{key} shares its official name"
        found[file][name] = list(as_ldm(name, tensor).shape)
    assert found == json.loads((DATA / f"{variant}.json").read_text(encoding="utf-8"))
