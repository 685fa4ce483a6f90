# cython: freethreading_compatible=True
"""Calls of compiled kernels: arguments as words, arrays as addresses, and the threads that share a call."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memcpy

cdef extern from "team.h" nogil:
    ctypedef void (*team_kernel)(const int64_t *words, char *scratch, int64_t begin, int64_t end) noexcept nogil
    enum: TEAM_MOST_CHUNKS
    enum: TEAM_MOST_HELPERS
    int team_run(team_kernel, const int64_t *, char *, int64_t, int64_t, int64_t, int)
    int team_size()
    void team_follow_forks()
    int team_set_watch(int)

cdef extern from "cpu.h":
    int cpu_level()

MOST_CHUNKS, MOST_HELPERS = TEAM_MOST_CHUNKS, TEAM_MOST_HELPERS
X86_64_LEVEL = cpu_level()

team_follow_forks()


def helpers_started():
    """How many helpers this process has started."""
    return team_size()


def watch_for(int pauses):
    """Let helpers watch for so many pauses of the processor before they sleep; how many it was before."""
    return team_set_watch(pauses)


cdef enum:
    MOST_ARRAYS = 4
    WORDS_OF_ARRAY = 3  # its address, its elements, the bytes of one
    MOST_WORDS = 64


cdef class Call:
    """A kernel with its constants, to be run on arrays.

    Parameters
    ----------
    address : int
        Where the kernel lies; `keep` is what it is valid with.
    itemsizes : tuple of int
        Bytes of an element of each array; 0 where the kernel takes None.
    constants : bytes
        What follows the arrays, in words of eight bytes.
    units : int
        How many work items there are.
    nbytes : int
        The bytes that it moves.
    scratch_bytes : int
        What each thread needs of scratch.
    """

    cdef team_kernel kernel
    cdef int64_t words[MOST_WORDS]
    cdef int64_t itemsizes[MOST_ARRAYS]
    cdef int arrays, used
    cdef object keep
    cdef readonly int64_t units, nbytes, scratch_bytes

    def __cinit__(self, address, itemsizes, bytes constants, units, nbytes, scratch_bytes, keep):
        cdef int i
        self.kernel = <team_kernel><uintptr_t>address
        self.arrays, self.used = len(itemsizes), 0
        if self.arrays > MOST_ARRAYS or len(constants) % 8:
            raise ValueError(f"at most {MOST_ARRAYS} arrays and whole words, got {itemsizes!r}, {len(constants)} bytes")
        for i in range(self.arrays):
            self.itemsizes[i] = itemsizes[i]
            self.used += WORDS_OF_ARRAY if itemsizes[i] else 0
        if 8 * self.used + len(constants) > sizeof(self.words):
            raise ValueError(f"at most {MOST_WORDS} words, got {self.used} and {len(constants) // 8}")
        memcpy(&self.words[self.used], <const char *>constants, len(constants))
        self.used += len(constants) // 8
        self.units, self.nbytes, self.scratch_bytes, self.keep = units, nbytes, scratch_bytes, keep

    cdef int _export(self, tuple arrays, Py_buffer *views, int64_t *words) except -1:
        """Fill in the array addresses; return the number of exported buffers. On an error all are released."""
        cdef int i, taken = 0
        cdef int64_t *word = words
        memcpy(words, self.words, 8 * self.used)
        if len(arrays) != self.arrays:
            raise TypeError(f"the kernel takes {self.arrays} arrays, got {len(arrays)}")
        try:
            for i in range(self.arrays):
                if self.itemsizes[i] == 0:
                    if arrays[i] is not None:
                        raise TypeError(f"the kernel takes None for array {i}, got {type(arrays[i]).__name__}")
                    continue
                PyObject_GetBuffer(arrays[i], &views[taken], PyBUF_SIMPLE)
                taken += 1
                if views[taken - 1].itemsize != self.itemsizes[i]:
                    raise TypeError(f"elements of array {i} have {self.itemsizes[i]} bytes, got {views[taken - 1].itemsize}")
                word[0] = <int64_t><uintptr_t>views[taken - 1].buf
                word[1] = views[taken - 1].len // self.itemsizes[i]
                word[2] = self.itemsizes[i]
                word += WORDS_OF_ARRAY
        except BaseException:
            for i in range(taken):
                PyBuffer_Release(&views[i])
            raise
        return taken

    def run(self, scratch, int64_t begin, int64_t end, *arrays):
        """Run the work items from `begin` up to `end` in this thread."""
        cdef Py_buffer views[MOST_ARRAYS + 1]
        cdef int64_t words[MOST_WORDS]
        cdef int i, taken
        if not 0 <= begin <= end <= self.units:
            raise ValueError(f"work items from 0 up to {self.units}, got {begin} up to {end}")
        taken = self._export(arrays, views, words)
        try:
            PyObject_GetBuffer(scratch, &views[taken], PyBUF_SIMPLE)
            taken += 1
            if views[taken - 1].len < self.scratch_bytes:
                raise ValueError(f"scratch needs {self.scratch_bytes} bytes, got {views[taken - 1].len}")
            with nogil:
                self.kernel(words, <char *>views[taken - 1].buf, begin, end)
        finally:
            for i in range(taken):
                PyBuffer_Release(&views[i])

    def run_shared(self, scratch, int helpers, int64_t chunks, *arrays):
        """Run all work items with up to so many helpers, in so many chunks; False, with nothing done, if all are busy.

        The scratch has a part for the caller and for each helper.
        """
        cdef Py_buffer views[MOST_ARRAYS + 1]
        cdef int64_t words[MOST_WORDS]
        cdef int i, taken, done
        if not (1 <= chunks <= TEAM_MOST_CHUNKS and chunks <= self.units):
            raise ValueError(f"chunks from 1 up to {min(self.units, MOST_CHUNKS)}, got {chunks}")
        if not 0 <= helpers <= TEAM_MOST_HELPERS:
            raise ValueError(f"helpers from 0 up to {MOST_HELPERS}, got {helpers}")
        taken = self._export(arrays, views, words)
        try:
            PyObject_GetBuffer(scratch, &views[taken], PyBUF_SIMPLE)
            taken += 1
            if views[taken - 1].len < (helpers + 1) * self.scratch_bytes:
                raise ValueError(f"scratch needs {(helpers + 1) * self.scratch_bytes} bytes, got {views[taken - 1].len}")
            with nogil:
                done = team_run(
                    self.kernel, words, <char *>views[taken - 1].buf, self.scratch_bytes, self.units, chunks, helpers
                )
            return done != 0
        finally:
            for i in range(taken):
                PyBuffer_Release(&views[i])
