"""What this project computes on other processors: ``python -m benchmarks.portability``; see docs/portability.md."""
