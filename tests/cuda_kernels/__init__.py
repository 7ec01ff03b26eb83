"""Which kernels ONNX Runtime's CUDA provider has, by release, and what of a graph it therefore leaves to the CPU."""
