"""Benchmarks: each module runs alone, ``python -m benchmarks.NAME``, and prints ratios taken in one run."""
