"""What every test runs under: hypothesis without deadlines, and the same examples in every CI run."""

from __future__ import annotations

import os

from hypothesis import settings

# A deadline fails on a busy machine, not on a bug.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
