"""From arrays to a running kernel: how memory is passed, what is compiled, where and on which stream it runs."""

from __future__ import annotations

import ctypes
import struct
from functools import cache, wraps
from math import gcd
from typing import NamedTuple

import numpy as np

from fastpool.array_library import ArrayLibrary
from fastpool.backends.cuda import driver
from fastpool.backends.cuda.compilation import compiled, types
from fastpool.backends.cuda.vectors import Half, Pointer
from fastpool.device_arrays import LEGACY_STREAM, DeviceArray
from fastpool.replay import recording

VECTOR_BYTES = 16  # the most that a thread loads at once
NARROW = 2**31 - 2**29  # sizes below it take 32-bit indices: an index may exceed the size by one grid-stride step
THREADS = 256  # of a block
BLOCKS = 2**18  # of a grid at most; beyond, threads take more than one work item

_WORD_MASK = 2**64 - 1


class Memory(NamedTuple):
    """An argument that is a pointer: the fields of its type in the kernel, its address, and the size of its memory.

    `whole` tells that all vectors which the kernel accesses lie within their rows, `reverses` that it compares elements
    in reversed order.

    The compute dtype "index" stands for the dtype of the kernel's indices. "half" is that of two-byte floats which are
    only compared: in pairs where the GPU has such instructions, else as float32.
    """

    stored: str
    width: int
    compute_dtype: str
    align: int
    whole: bool
    reverses: bool
    address: int
    nbytes: int


HALVES = ("float16", "bfloat16")


def compute_dtype_of(dtype: np.dtype) -> str:
    """The dtype in which elements of a dtype are compared and summed."""
    return "float32" if dtype.name in HALVES else {"bool": "uint8"}.get(dtype.name, dtype.name)


def memory(
    a: DeviceArray,
    width: int = 1,
    row: int = 0,
    vectors: int | None = None,
    compute_dtype: str | None = None,
    reverses: bool = False,
) -> Memory:
    """An array as the argument of a kernel that accesses vectors of `width` elements, within rows of `row` elements,
    or of a flat array if `row` is 0.

    `vectors` is how many of each row it accesses, from the begin of the row; None if it may ask for others.
    """
    align = a.itemsize
    if width > 1:
        align = gcd(a.pointer, width * a.itemsize, VECTOR_BYTES, row * a.itemsize)
    whole = vectors is not None and vectors * width <= row
    compute_dtype = compute_dtype or compute_dtype_of(a.dtype)
    return Memory(a.dtype.name, width, compute_dtype, align, whole, reverses, a.pointer, a.nbytes)


NOTHING = Memory("uint8", 1, "uint8", 1, False, False, 0, 0)


def divisor(n: int) -> tuple[int, int, int]:
    """A number by which a kernel divides: n, and the multiplier and the shift that do it (Granlund, Montgomery 1994).

    i // n is (2 i · multiplier) >> 32 >> shift for 0 <= i < 2**31.
    """
    shift = (n - 1).bit_length()
    return n, (1 << 31 + shift) // n + 1, shift


def divisors(*counts: int) -> tuple[int, ...]:
    """The counts of four axes as a kernel's argument, by which `pool.unravel` divides."""
    return tuple(number for n in counts for number in divisor(max(n, 1)))


def is_wide(*values: int) -> bool:
    """Whether indices computed from these values need 64 bits."""
    return max(map(abs, values)) >= NARROW


@cache
def _kernel(make, constants, signature, index, device):
    """The kernel of `make(*constants)`, or `make` itself, for a signature on a device. It is never dropped."""
    function = make(*constants) if constants is not None else make
    capability = driver.capability(device)
    numba_types = [_numba_type(description, index, capability) for description in signature]
    made_of = make.__module__, make.__qualname__, constants, signature, index
    return driver.Kernel(*compiled(function, numba_types, capability, made_of), device)


def _numba_type(description, index, capability):
    """The Numba type of an argument, from its description in a signature."""
    if isinstance(description, tuple):
        stored, width, compute_dtype, align, *flags = description
        if compute_dtype == "half" and capability >= (8, 0):
            return Pointer(stored, width, Half(stored), align, *flags)
        compute_dtype = {"index": index, "half": "float32"}.get(compute_dtype, compute_dtype)
        return Pointer(stored, width, getattr(types, compute_dtype), align, *flags)
    if isinstance(description, int):
        return types.UniTuple(getattr(types, index), description)
    return getattr(types, index if description == "index" else description)


def _describe(argument):
    """An argument in the signature of a kernel: hashable, and without the dtype of indices."""
    if isinstance(argument, Memory):
        return argument[:-2]
    if isinstance(argument, tuple):
        return len(argument)
    if isinstance(argument, np.generic):
        return argument.dtype.name
    return "float64" if isinstance(argument, float) else "index"


def _words(argument):
    """An argument as words of eight bytes. The driver reads of each as many bytes as the kernel's parameter has."""
    if isinstance(argument, Memory):
        return [argument.address]
    if isinstance(argument, tuple):
        return [n & _WORD_MASK for n in argument]
    if isinstance(argument, float):
        return [int.from_bytes(struct.pack("<d", argument), "little")]
    return [int(argument) & _WORD_MASK]


class _Packed:
    """Arguments as the driver takes them: at `address` lies a list of the addresses of all words, in `order`."""

    __slots__ = ("_addresses", "address", "words")

    def __init__(self, words, order):
        count = len(words)
        self.words = (ctypes.c_uint64 * count)(*words)
        first = ctypes.addressof(self.words)
        self._addresses = (ctypes.c_void_p * count)(*[first + 8 * at for at in order])
        self.address = ctypes.addressof(self._addresses)


class Launch:
    """A kernel with its grid and its packed arguments. Each call runs it on a stream, with other addresses."""

    def __init__(self, kernel, grid: int, arguments: tuple) -> None:
        self._kernel, self._grid = kernel, grid
        words = [(word, isinstance(argument, Memory)) for argument in arguments for word in _words(argument)]
        # Addresses come first, so that one slice replaces all of them; the driver finds each word by its address.
        packed_order = sorted(range(len(words)), key=lambda at: not (words[at][0] and words[at][1]))
        self._words = [words[at][0] for at in packed_order]
        self._order = [packed_order.index(at) for at in range(len(words))]
        self.addresses = [word for word, is_address in words if word and is_address]
        # Each launching thread takes its own, because the driver reads it without holding the GIL.
        self._packed: list[_Packed] = []

    def __call__(self, addresses, stream: int) -> None:
        """Run with `addresses` in place of `self.addresses`."""
        try:
            packed = self._packed.pop()
        except IndexError:
            packed = _Packed(self._words, self._order)
        packed.words[: len(addresses)] = addresses
        self._kernel.launch(self._grid, THREADS, packed.address, stream)
        self._packed.append(packed)


def launch(place: DeviceArray, make, constants: tuple | None, *arguments, wide: bool, blocks: int = 0) -> None:
    """Run a kernel on the device and the stream of an array.

    The last argument is the number of work items, of which each thread takes one; with `blocks`, that many blocks share
    the work items.
    """
    signature = tuple(map(_describe, arguments))
    kernel = _kernel(make, constants, signature, "int64" if wide else "int32", place.device)
    grid = min(blocks or -(-arguments[-1] // THREADS), BLOCKS)
    prepared = Launch(kernel, grid, arguments)
    recorder = recording.get()
    if recorder is not None:
        recorder.record_launch(prepared, prepared.addresses)
    prepared(prepared.addresses, place.stream())


def threads_per_block() -> int:
    return THREADS


class _Transferred(ArrayLibrary):
    """NumPy arrays that are copied to a GPU and back."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        return _on_gpu(np.empty(shape, dtype), False)

    def stream(self, a: DeviceArray) -> int:
        return LEGACY_STREAM  # the copies run on it, too


_TRANSFERRED = _Transferred(None)


def _in_memory_order(a: np.ndarray) -> np.ndarray:
    """A dense array as a flat view in memory order."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    return a.transpose(order).reshape(-1)


def _on_gpu(a: np.ndarray, with_elements: bool) -> DeviceArray:
    """A device array like a dense NumPy array, on the current GPU; its elements are copied only `with_elements`."""
    device = driver.current_device()
    buffer = driver.Buffer(a.nbytes, device)
    if with_elements:
        buffer.write(_in_memory_order(a))
    return DeviceArray(_TRANSFERRED, buffer, device, buffer.address, a.shape, a.strides, a.dtype)


def with_transfers(outputs: int):
    """Let an op on device arrays take NumPy arrays, too: inputs are copied to the GPU, the last `outputs` back."""

    def decorate(op):
        @wraps(op)
        def run(*arguments, **options):
            if not isinstance(arguments[0], np.ndarray):
                return _on_one_stream(op, arguments, options, outputs)
            transferred = list(arguments)
            for i, a in enumerate(arguments):
                if isinstance(a, np.ndarray):
                    transferred[i] = _on_gpu(a, i < len(arguments) - outputs)
            result = op(*transferred, **options)
            for i in range(len(arguments) - outputs, len(arguments)):
                if isinstance(arguments[i], np.ndarray):
                    transferred[i].owner.read(_in_memory_order(arguments[i]))
            return result

        run.on_device = op
        return run

    return decorate


def _on_one_stream(op, arguments, options, outputs):
    """Run an op on the stream of its first input.

    That stream first waits for the streams of all other arrays. The streams of the outputs then wait for the op. An
    array that names no stream needs no waiting.
    """
    streams = [a.stream() if isinstance(a, DeviceArray) else 0 for a in arguments]
    mine, device = streams[0], arguments[0].device
    others = set(streams) - {0, mine}
    if not others:
        return op(*arguments, **options)
    for other in others:
        driver.wait(mine, other, device)
    result = op(*[a.on(mine) if isinstance(a, DeviceArray) else a for a in arguments], **options)
    for other in set(streams[len(streams) - outputs :]) & others:
        driver.wait(other, mine, device)
    return result


def read_back(a: DeviceArray) -> np.ndarray:
    """A copy in main memory of an array that was made for a NumPy input. Waits for the GPU."""
    copy = np.empty(a.shape, a.dtype)
    a.owner.read(copy)
    return copy
