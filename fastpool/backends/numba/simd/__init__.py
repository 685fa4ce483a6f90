"""What kernels are written in: vectors, comparison, argmax offsets, keys, two-byte floats, the exponential, views."""
