"""The paper's claims at a size that fits two CPU cores: ``python -m benchmarks.claims``; see docs/claims.md."""
