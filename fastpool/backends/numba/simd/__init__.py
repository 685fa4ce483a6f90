"""What the kernels are written in: vectors, comparison, argmax offsets, two-byte floats, the exponential, views."""
