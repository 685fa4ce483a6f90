"""How each kernel cuts its arrays into tiles, and how it divides its scratch.

A plan computes these named tuples of integers once and hands them to the kernel, which computes none of them again.
Sizes are in elements; where a part of scratch begins (`..._begin`), in bytes.
"""
