# cython: freethreading_compatible=True
"""Calls of compiled kernels: arrays and constants become words, and threads run the work items."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "team.h" nogil:
    ctypedef void (*team_kernel)(const int64_t *words, char *scratch, int64_t begin, int64_t end) noexcept nogil
    enum: TEAM_MOST_CHUNKS
    enum: TEAM_MOST_HELPERS
    int team_run(team_kernel, const int64_t *, char *, int64_t, int64_t, int64_t, int)
    int team_size()
    void team_start(int)  # with the GIL
    void team_follow_forks()
    int team_set_watch(int)

cdef extern from "cpu.h":
    int cpu_level()

cnp.import_array()

MOST_CHUNKS, MOST_HELPERS = TEAM_MOST_CHUNKS, TEAM_MOST_HELPERS
X86_64_LEVEL = cpu_level()

team_follow_forks()


def helpers_started():
    """How many helpers this process has started."""
    return team_size()


def watch_for(int pauses):
    """Let helpers poll for work so many times, with a pause each time, before they sleep; how many it was before."""
    return team_set_watch(pauses)


cdef enum:
    MOST_ARRAYS = 4
    ARRAY_WORDS = 3  # its address, its number of elements, the bytes of one: WORDS_OF_ARRAY of `encoding.py`
    MOST_WORDS = 96
    SCRATCH_ALIGNMENT = 64  # a cache line


WORDS_OF_ARRAY = ARRAY_WORDS


cdef class Call:
    """A kernel with its constants, to be run on arrays.

    Parameters
    ----------
    address : int
        Of the kernel; it is valid while `keep` lives.
    itemsizes : tuple of int
        Bytes of an element of each array; 0 for one that the kernel is not given. Calls pass None for it, or leave it
        out at the end.
    constants : bytes
        What the kernel is given after the arrays, in words of eight bytes.
    items : int
        How many work items there are.
    cost_bytes : int
        The bytes that it moves, or the time it takes in bytes moved: they decide how many threads run it.
    scratch_bytes : int
        Bytes of scratch that each thread needs, in whole cache lines: that of all threads is one array.
    """

    cdef team_kernel kernel
    cdef int64_t words[MOST_WORDS]
    cdef int64_t itemsizes[MOST_ARRAYS]
    cdef int n_arrays, n_words, min_arrays
    cdef object keep
    cdef readonly int64_t items, cost_bytes, scratch_bytes

    def __cinit__(self, address, itemsizes, bytes constants, items, cost_bytes, scratch_bytes, keep):
        cdef int i
        self.kernel = <team_kernel><uintptr_t>address
        self.n_arrays, self.n_words, self.min_arrays = len(itemsizes), 0, 0
        if scratch_bytes % SCRATCH_ALIGNMENT:
            raise ValueError(f"scratch of each thread must end with a cache line, got {scratch_bytes} bytes")
        if self.n_arrays > MOST_ARRAYS or len(constants) % 8:
            raise ValueError(f"at most {MOST_ARRAYS} arrays and whole words, got {itemsizes!r}, {len(constants)} bytes")
        for i in range(self.n_arrays):
            self.itemsizes[i] = itemsizes[i]
            if itemsizes[i]:
                self.n_words += ARRAY_WORDS
                self.min_arrays = i + 1
        if 8 * self.n_words + len(constants) > sizeof(self.words):
            raise ValueError(f"at most {MOST_WORDS} words, got {self.n_words} and {len(constants) // 8}")
        memcpy(&self.words[self.n_words], <const char *>constants, len(constants))
        self.n_words += len(constants) // 8
        self.items, self.cost_bytes, self.scratch_bytes, self.keep = items, cost_bytes, scratch_bytes, keep

    cdef int _write_words(self, tuple arrays, int64_t *words) except -1:
        """Write the words of these arrays, and then the constants."""
        cdef int i
        cdef cnp.ndarray a
        cdef int64_t *word = words
        memcpy(words, self.words, 8 * self.n_words)
        if not self.min_arrays <= len(arrays) <= self.n_arrays:
            raise TypeError(f"the kernel takes {self.min_arrays} to {self.n_arrays} arrays, got {len(arrays)}")
        for i in range(self.n_arrays):
            if self.itemsizes[i] == 0:
                if i < len(arrays) and arrays[i] is not None:
                    raise TypeError(f"the kernel takes None for array {i}, got {type(arrays[i]).__name__}")
                continue
            if not isinstance(arrays[i], cnp.ndarray):
                raise TypeError(f"array {i} must be a NumPy array, got {type(arrays[i]).__name__}")
            a = arrays[i]
            if cnp.PyArray_ITEMSIZE(a) != self.itemsizes[i]:
                raise TypeError(f"elements of array {i} have {self.itemsizes[i]} bytes, got {cnp.PyArray_ITEMSIZE(a)}")
            if not cnp.PyArray_IS_C_CONTIGUOUS(a):
                raise ValueError(f"array {i} must be C-contiguous, got strides {arrays[i].strides}")
            word[0] = <int64_t><uintptr_t>cnp.PyArray_DATA(a)
            word[1] = cnp.PyArray_SIZE(a)
            word[2] = self.itemsizes[i]
            word += ARRAY_WORDS
        return 0

    def run_alone(self, *arrays):
        """Run all work items in this thread, with scratch from malloc: the fastest way for a call of one thread whose
        scratch is small."""
        cdef int64_t words[MOST_WORDS]
        cdef char *memory
        self._write_words(arrays, words)
        memory = <char *>malloc(self.scratch_bytes + SCRATCH_ALIGNMENT)
        if memory == NULL:
            raise MemoryError(f"no {self.scratch_bytes} bytes of scratch")
        with nogil:
            self.kernel(words, memory + -<uintptr_t>memory % SCRATCH_ALIGNMENT, 0, self.items)
            free(memory)

    def run(self, cnp.ndarray scratch not None, int64_t begin, int64_t end, *arrays):
        """Run the work items from `begin` up to `end` in this thread."""
        cdef int64_t words[MOST_WORDS]
        cdef char *memory = <char *>cnp.PyArray_DATA(scratch)
        if not 0 <= begin <= end <= self.items:
            raise ValueError(f"work items from 0 up to {self.items}, got {begin} up to {end}")
        self._write_words(arrays, words)
        if cnp.PyArray_NBYTES(scratch) < self.scratch_bytes:
            raise ValueError(f"scratch needs {self.scratch_bytes} bytes, got {cnp.PyArray_NBYTES(scratch)}")
        with nogil:
            self.kernel(words, memory, begin, end)

    def run_parallel(self, cnp.ndarray scratch not None, int helpers, int64_t chunks, *arrays):
        """Run all work items with up to so many helpers, in so many chunks.

        False, with nothing done, if the helpers are busy with another call. The scratch is that of the caller, and then
        that of each helper.
        """
        cdef int64_t words[MOST_WORDS]
        cdef char *memory = <char *>cnp.PyArray_DATA(scratch)
        cdef int64_t needed_bytes = (helpers + 1) * self.scratch_bytes
        cdef int done
        if not (1 <= chunks <= TEAM_MOST_CHUNKS and chunks <= self.items):
            raise ValueError(f"chunks from 1 up to {min(self.items, MOST_CHUNKS)}, got {chunks}")
        if not 0 <= helpers <= TEAM_MOST_HELPERS:
            raise ValueError(f"helpers from 0 up to {MOST_HELPERS}, got {helpers}")
        self._write_words(arrays, words)
        if cnp.PyArray_NBYTES(scratch) < needed_bytes:
            raise ValueError(f"scratch needs {needed_bytes} bytes, got {cnp.PyArray_NBYTES(scratch)}")
        team_start(helpers)
        with nogil:
            done = team_run(self.kernel, words, memory, self.scratch_bytes, self.items, chunks, helpers)
        return done != 0
