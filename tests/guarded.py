"""Memory between two inaccessible pages: an access outside it, or after it is closed, ends the process."""

import ctypes
import mmap
from collections import deque

import numpy as np

PAGE = mmap.PAGESIZE
CACHE_LINE = 64
PATTERNS = (0xA5, 0x00, 0xFF)
# The number of freed regions that stay inaccessible before their addresses may be reused.
KEPT_CLOSED = 4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
_libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
_CLOSED, _DONTNEED = 0, 4
_FAILED = ctypes.c_void_p(-1).value


def _checked(result):
    if result:
        raise OSError(ctypes.get_errno(), "a page cannot be closed")


class Region:
    """`nbytes` of memory, `shift` bytes away from the inaccessible page after it (`at_end`) or before it."""

    def __init__(self, nbytes, at_end, pattern, align=1, shift=0):
        size = max(-(-(nbytes + shift + align) // PAGE), 1) * PAGE
        self.total = size + 2 * PAGE
        self.base = _libc.mmap(
            None, self.total, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
        )
        if self.base == _FAILED:
            raise MemoryError(f"mmap of {self.total} bytes")
        for page in (self.base, self.base + PAGE + size):
            _checked(_libc.mprotect(page, PAGE, _CLOSED))
        self.all = np.frombuffer((ctypes.c_ubyte * size).from_address(self.base + PAGE), np.uint8)
        self.all[...] = pattern
        begin = (size - nbytes - shift) // align * align if at_end else shift
        self.begin, self.bytes = begin, self.all[begin : begin + nbytes]
        self.before = None
        self.written = np.zeros(size, bool)

    def watch(self, written=None):
        """From now on only the bytes of `written`, an array in this region, may change."""
        self.before = self.all.copy()
        self.written[...] = False
        if written is not None and written.size:
            offset = written.__array_interface__["data"][0] - (self.base + PAGE)
            mask = np.ndarray((*written.shape, written.itemsize), bool, self.written, offset, (*written.strides, 1))
            mask[...] = True

    def changed(self):
        """The offset from the array's start of the first byte that was written without permission; or None."""
        if self.before is None:
            return None
        wrong = (self.all != self.before) & ~self.written
        return int(wrong.argmax()) - self.begin if wrong.any() else None

    def close(self):
        del self.all, self.bytes
        _libc.madvise(self.base + PAGE, self.total - 2 * PAGE, _DONTNEED)
        _checked(_libc.mprotect(self.base, self.total, _CLOSED))


class Memory:
    """All regions of one call: created before it, checked and closed after it."""

    def __init__(self, rng):
        self.rng, self.pattern, self.regions, self._closed = rng, PATTERNS[0], [], deque()

    def region(self, nbytes, align=1, shift=0):
        made = Region(nbytes, bool(self.rng.random() < 0.7), self.pattern, align, shift)
        self.regions.append(made)
        return made

    def empty(self, shape, dtype=np.float64):
        """np.empty between inaccessible pages."""
        dtype, shape = np.dtype(dtype), (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        region = self.region(int(np.prod(shape)) * dtype.itemsize)
        region.watch(region.bytes)
        return region.bytes.view(dtype).reshape(shape)

    def scratch(self, nbytes):
        """Scratch of a kernel, aligned to a cache line."""
        region = self.region(nbytes, CACHE_LINE)
        region.watch(region.bytes)
        return region.bytes

    def strided(self, shape, dtype, strides, shift=0):
        """An array with these strides, and its region, which spans exactly the array."""
        dtype = np.dtype(dtype)
        ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True) if n]
        empty = 0 in shape
        low = 0 if empty else sum(e for e in ends if e < 0)
        high = 0 if empty else sum(e for e in ends if e > 0) + dtype.itemsize
        region = self.region(high - low, shift=shift)
        return np.ndarray(shape, dtype, region.bytes, -low, strides) if not empty else np.empty(shape, dtype), region

    def changed(self):
        return next((c for c in (r.changed() for r in self.regions) if c is not None), None)

    def close(self):
        for region in self.regions:
            region.close()
            self._closed.append((region.base, region.total))
        self.regions.clear()
        while len(self._closed) > KEPT_CLOSED:
            _libc.munmap(*self._closed.popleft())


class GuardedNumPy:
    """Replaces NumPy in a module of fastpool: new arrays are created in guarded memory."""

    def __init__(self, memory):
        self._memory = memory

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        return self._memory.empty(shape, dtype)

    def zeros(self, shape, dtype=np.float64):
        made = self._memory.empty(shape, dtype)
        made[...] = np.zeros((), dtype)
        return made

    def array(self, a, dtype=None, *, order="K", copy=True):
        if not isinstance(a, np.ndarray) or order != "C" or not copy:
            return np.array(a, dtype, order=order, copy=copy)
        made = self._memory.empty(a.shape, a.dtype if dtype is None else dtype)
        made[...] = a
        return made


def arranged(rng, memory, content, *, result=False, plain=False, repeats=True):
    """An array in guarded memory with random strides, byte order and alignment; contiguous and native if `plain`.

    An input has the values of `content`, may be read-only, and no byte of it may change from now on. A `result` has the
    shape and dtype of `content`, and only its elements may change. Where `repeats` is true, an input may be broadcast
    along an axis: `content` is then changed in place to the same values.
    """
    shape, dtype = content.shape, content.dtype
    way = "contiguous" if plain else rng.choice(["contiguous", "permuted", "gaps", "negative", "mixed", "broadcast"])
    if not plain and dtype.itemsize > 1 and dtype.kind in "fiu" and rng.random() < 0.1:
        dtype = dtype.newbyteorder()
    axes = list(range(len(shape)))
    if way in ("permuted", "mixed"):
        rng.shuffle(axes)
    strides, step = [0] * len(shape), dtype.itemsize
    for axis in reversed(axes):
        if way in ("gaps", "mixed") and rng.random() < 0.4:
            step *= int(rng.integers(2, 4))
        strides[axis] = step
        step *= max(shape[axis], 1)
        if way in ("negative", "mixed") and rng.random() < 0.4:
            strides[axis] = -strides[axis]
    if not plain and rng.random() < 0.4:  # the stride of an axis of length 1 is never used
        strides = [
            int(rng.integers(-70, 70)) * int(rng.choice([1, dtype.itemsize, 1 << 40])) if n == 1 else s
            for n, s in zip(shape, strides, strict=True)
        ]
    if way == "broadcast" and repeats and not result and shape and content.size:
        axis = int(rng.integers(len(shape)))
        content[...] = content.take([0], axis)  # in place, so that the reference gets the same values
        strides[axis] = 0
    shift = 1 if not plain and rng.random() < 0.1 else 0
    a, region = memory.strided(shape, dtype, strides, shift)
    if not result:
        with np.errstate(all="ignore"):
            a[...] = content
        region.watch()
        a.flags.writeable = bool(plain or rng.random() < 0.7)
    else:
        region.watch(a)
    return a
