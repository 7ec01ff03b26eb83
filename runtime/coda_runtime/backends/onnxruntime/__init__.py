"""Parts of the onnxruntime backend: the library, its providers and their plugins, and sessions."""
