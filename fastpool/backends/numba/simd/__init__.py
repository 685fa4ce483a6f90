"""What the kernels are written in: vectors, comparison and arithmetic, two-byte floats, views of arrays."""
