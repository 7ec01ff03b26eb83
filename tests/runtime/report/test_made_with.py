from __future__ import annotations

import re

import numpy as np

from coda_runtime.report.made_with import facts_of_now, footer


def test_a_page_says_what_it_was_made_with() -> None:
    facts = facts_of_now(["coda", "eval", "my bundle", "--data", "x"], ["numpy", "no-such-package"])
    assert facts["Command"] == "coda eval 'my bundle' --data x"
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", facts["Made"])
    assert facts["Versions"] == f"numpy {np.__version__}"
    assert set(facts) == {"Command", "Made", "Machine", "System", "Versions"}
    page = footer({"Command": "a <b>"}, "more")
    assert page.startswith("<footer><h2>Made with</h2><dl")
    assert "a &lt;b&gt;" in page
    assert page.endswith("more</footer>")
