"""TensorRT and TensorRT-RTX engines: built from a bundle's ONNX files, and loaded only where they fit.

Both libraries have one API, so there is one builder, and the library's module is passed to it.
"""
