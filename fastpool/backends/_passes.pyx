# cython: freethreading_compatible=True
"""Passes of NumPy's maximum or minimum over parts of one array, by NumPy's own loops, without Python between them."""

cimport numpy as cnp
from libc.stdint cimport int64_t

cnp.import_array()
cnp.import_ufunc()

cdef enum:
    BLOCK_BYTES = 1 << 14

ctypedef void (*Loop)(char **, const cnp.npy_intp *, const cnp.npy_intp *, void *) noexcept nogil


def run_passes(extreme, scratch, operations):
    """As `Passes.run_passes` of `fastpool.backends.interface`."""
    cdef:
        cnp.ufunc ufunc = extreme
        cnp.ndarray array = scratch
        const int64_t[:, ::1] parts = operations
        int i, dtype = cnp.PyArray_TYPE(array)
        Loop loop = NULL
        void *data = NULL
        Py_ssize_t row, end, each
        int64_t size = array.size, first, second, target, begin, block
        cnp.npy_intp count, itemsize = cnp.PyArray_ITEMSIZE(array)
        cnp.npy_intp steps[3]
        char *base = <char *> cnp.PyArray_DATA(array)
        char *arguments[3]
    if ufunc.nin != 2 or ufunc.nout != 1 or not (array.flags.carray and array.dtype.isnative):
        raise ValueError("run_passes takes a binary function, and a contiguous native array")
    if parts.shape[1] != 4:
        raise ValueError(f"operations must have shape (n, 4), got {operations.shape}")
    for i in range(ufunc.ntypes):
        if ufunc.types[3 * i] == dtype and ufunc.types[3 * i + 1] == dtype and ufunc.types[3 * i + 2] == dtype:
            loop = <Loop> ufunc.functions[i]
            if ufunc.data != NULL:
                data = ufunc.data[i]
            break
    if loop == NULL:
        raise TypeError(f"{extreme.__name__} has no loop for {array.dtype}")
    for row in range(parts.shape[0]):
        first, second, target, count = parts[row, 0], parts[row, 1], parts[row, 2], parts[row, 3]
        if min(first, second, target, count) < 0 or max(first, second, target) > size - count:
            raise ValueError(f"operation {row} leaves the array of {size} elements")
    steps[0] = steps[1] = steps[2] = itemsize
    block = BLOCK_BYTES // itemsize
    with nogil:
        row = 0
        while row < parts.shape[0]:
            end = row + 1
            while end < parts.shape[0] and parts[end, 2] == parts[row, 2] and parts[end, 3] == parts[row, 3]:
                end += 1
            # What several operations write to one place stays in the first cache, block by block.
            begin = 0
            while begin < parts[row, 3]:
                count = min(parts[row, 3] - begin, block)
                for each in range(row, end):
                    for i in range(3):
                        arguments[i] = base + (parts[each, i] + begin) * itemsize
                    loop(arguments, &count, steps, data)
                begin += block
            row = end
