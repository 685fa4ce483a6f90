"""How each kernel cuts its arrays into tiles, and how it divides its scratch.

A plan computes these named tuples of integers once and hands them to the kernel, which computes none of them again.
Sizes are in elements; where a region of scratch begins (`..._begin`), in bytes. A bool reaches the kernel as a word, 0
or 1.
"""
