"""What TensorRT's own bindings have, and what the code here and the tests' fake take of it."""
