"""ONNX files on the package openvino: a CPU of Intel, AMD or Arm."""
