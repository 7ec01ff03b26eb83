"""The whole GPU measurement in one call: ``python -m benchmarks.gpu --help``, docs/gpu.md.

No module here imports more than PyTorch and this project when it is imported: wheels may have to be installed first,
and a process must not have used CUDA before it forks.
"""
