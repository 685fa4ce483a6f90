"""From arrays to a running kernel: how memory is passed, what is compiled, where and on which stream it runs."""

from __future__ import annotations

import ctypes
import struct
from functools import cache, wraps
from math import gcd
from typing import NamedTuple

import numpy as np

from fastpool.backends.cuda import driver
from fastpool.backends.cuda.compilation import compiled, types
from fastpool.backends.cuda.lanes import Pointer
from fastpool.device_arrays import LEGACY_STREAM, ArrayLibrary, DeviceArray
from fastpool.replay import recording

LANE_BYTES = 16  # the most that a thread loads at once
NARROW = 2**31 - 2**29  # sizes below it are calculated with in 32 bits: an index may still take the longest step
THREADS = 256  # of a block
BLOCKS = 2**18  # of a grid at most; beyond, threads take more than one unit

_WORD = 2**64 - 1


class Memory(NamedTuple):
    """An argument that is a pointer: the type it has in the kernel, but for the type of indices, and the address."""

    stored: str
    lanes: int
    number: str
    align: int
    address: int
    nbytes: int


def number_of(dtype: np.dtype) -> str:
    """What numbers of a dtype are compared and added up in."""
    return {"float16": "float32", "bfloat16": "float32", "bool": "uint8"}.get(dtype.name, dtype.name)


def memory(a: DeviceArray, lanes: int = 1, *run: int, number: str | None = None) -> Memory:
    """An array for a kernel that takes `lanes` numbers at once, at multiples of them in runs of these lengths."""
    align = a.itemsize
    if lanes > 1:
        places = (a.pointer, lanes * a.itemsize, LANE_BYTES, *(n * a.itemsize for n in run))
        align = gcd(*places)
    return Memory(a.dtype.name, lanes, number or number_of(a.dtype), align, a.pointer, a.nbytes)


NOTHING = Memory("uint8", 1, "uint8", 1, 0, 0)


def is_wide(*numbers: int) -> bool:
    """Whether indices made of these need 64 bits."""
    return max(map(abs, numbers)) >= NARROW


@cache
def _kernel(make, constants, kinds, index, device):
    """The kernel that `make` makes, for arguments of these kinds, on a device. It is kept for good."""
    function = make(*constants) if constants is not None else make
    signature = [_type(kind, index) for kind in kinds]
    return driver.Kernel(*compiled(function, signature, driver.capability(device)), device)


def _type(kind, index):
    """The type of an argument in a kernel's signature."""
    if isinstance(kind, tuple):
        stored, lanes, number, align = kind
        number = index if number == "index" else number
        return Pointer(stored, lanes, getattr(types, number), align)
    if isinstance(kind, int):
        return types.UniTuple(getattr(types, index), kind)
    return getattr(types, index if kind == "index" else kind)


def _kind_of(argument):
    if isinstance(argument, Memory):
        return argument[:4]
    if isinstance(argument, tuple):
        return len(argument)
    if isinstance(argument, np.generic):
        return argument.dtype.name
    return "float64" if isinstance(argument, float) else "index"


def _words(argument):
    """An argument as words of eight bytes, of which the driver reads as many bytes as the kernel's parameter has."""
    if isinstance(argument, Memory):
        return [argument.address]
    if isinstance(argument, tuple):
        return [n & _WORD for n in argument]
    if isinstance(argument, float):
        return [int.from_bytes(struct.pack("<d", argument), "little")]
    return [int(argument) & _WORD]


class _Packed:
    """Arguments as the driver takes them: `address` is that of a list of the addresses of all words, in `order`."""

    __slots__ = ("_addresses", "address", "words")

    def __init__(self, words, order):
        count = len(words)
        self.words = (ctypes.c_uint64 * count)(*words)
        first = ctypes.addressof(self.words)
        self._addresses = (ctypes.c_void_p * count)(*[first + 8 * at for at in order])
        self.address = ctypes.addressof(self._addresses)


class Launch:
    """A kernel with its grid and its packed arguments, to be run on a stream, again and again with other addresses."""

    def __init__(self, kernel, grid: int, arguments: tuple) -> None:
        self._kernel, self._grid = kernel, grid
        words = [(word, isinstance(argument, Memory)) for argument in arguments for word in _words(argument)]
        # Addresses come first, so that all of them are replaced at once; the driver finds each word by its address.
        places = sorted(range(len(words)), key=lambda at: not (words[at][0] and words[at][1]))
        self._words = [words[at][0] for at in places]
        self._order = [places.index(at) for at in range(len(words))]
        self.addresses = [word for word, is_address in words if word and is_address]
        # Each thread that is launching has one, since the driver reads it without Python's lock.
        self._packed: list[_Packed] = []

    def __call__(self, addresses, stream: int) -> None:
        """Run with so many addresses in place of `self.addresses`."""
        try:
            packed = self._packed.pop()
        except IndexError:
            packed = _Packed(self._words, self._order)
        packed.words[: len(addresses)] = addresses
        self._kernel.launch(self._grid, THREADS, packed.address, stream)
        self._packed.append(packed)


def launch(place: DeviceArray, make, constants: tuple | None, *arguments, wide: bool, blocks: int = 0) -> None:
    """Run a kernel where an array lies, on its stream. The last argument is the number of units, one for each thread.

    Or, with `blocks`, so many blocks are to share the units.
    """
    kinds = tuple(map(_kind_of, arguments))
    kernel = _kernel(make, constants, kinds, "int64" if wide else "int32", place.device)
    grid = min(blocks or -(-arguments[-1] // THREADS), BLOCKS)
    prepared = Launch(kernel, grid, arguments)
    recorder = recording.get()
    if recorder is not None:
        recorder.launched(prepared, prepared.addresses)
    prepared(prepared.addresses, place.stream())


def threads_of_a_block() -> int:
    return THREADS


class _Moved(ArrayLibrary):
    """NumPy arrays on their way to a GPU and back."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        return _moved(np.empty(shape, dtype), False)

    def stream(self, a: DeviceArray) -> int:
        return LEGACY_STREAM  # on which they are copied, too


_MOVED = _Moved(None)


def _in_memory_order(a: np.ndarray) -> np.ndarray:
    """A dense array flat, as it lies in memory."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    return a.transpose(order).reshape(-1)


def _moved(a: np.ndarray, with_numbers: bool) -> DeviceArray:
    """A dense NumPy array on the current GPU."""
    device = driver.current_device()
    buffer = driver.Buffer(a.nbytes, device)
    if with_numbers:
        buffer.write(_in_memory_order(a))
    return DeviceArray(_MOVED, buffer, device, buffer.address, a.shape, a.strides, a.dtype)


def travelling(outputs: int):
    """Make an op on device arrays one that also takes NumPy arrays: they go to the GPU, its last ones come back."""

    def decorate(op):
        @wraps(op)
        def run(*arguments, **options):
            if not isinstance(arguments[0], np.ndarray):
                return _on_one_stream(op, arguments, options, outputs)
            moved = list(arguments)
            for i, a in enumerate(arguments):
                if isinstance(a, np.ndarray):
                    moved[i] = _moved(a, i < len(arguments) - outputs)
            result = op(*moved, **options)
            for i in range(len(arguments) - outputs, len(arguments)):
                if isinstance(arguments[i], np.ndarray):
                    moved[i].owner.read(_in_memory_order(arguments[i]))
            return result

        run.on_device = op
        return run

    return decorate


def _on_one_stream(op, arguments, options, outputs):
    """Run an op on the stream of its first input. Streams of its other arrays wait for it, or it for them.

    An array that names no stream needs no waiting.
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
    """The numbers of a small array that was made for one that came from NumPy; waits for the GPU."""
    numbers = np.empty(a.shape, a.dtype)
    a.owner.read(numbers)
    return numbers
