"""From arrays to a running kernel: how memory is passed, what is compiled, where and on which stream it runs."""

from __future__ import annotations

import ctypes
import threading
import warnings
from contextlib import nullcontext
from functools import cache, lru_cache, partial, wraps
from math import gcd
from typing import NamedTuple

import numpy as np

from fastpool.backends.cuda.compilation import SIMULATED, compiled, cuda, types
from fastpool.backends.cuda.lanes import Pointer
from fastpool.kinds import DeviceArray, Kind
from fastpool.replay import recording

LANE_BYTES = 16  # the most that a thread loads at once
NARROW = 2**31 - 2**29  # sizes below it are calculated with in 32 bits: an index may still take the longest step
THREADS = 256  # of a block
BLOCKS = 2**18  # of a grid at most; beyond, threads take more than one unit
# A thread of the simulator is one of Python's: a few show what many would do.
SIMULATED_THREADS, SIMULATED_BLOCKS = 2, 2

_one_at_a_time = threading.Lock()


class Memory(NamedTuple):
    """An argument that is a pointer: the type it has in the kernel, but for the type of indices, and the address."""

    stored: str
    lanes: int
    number: str
    align: int
    address: int
    nbytes: int


def stored_as(dtype: np.dtype) -> str:
    """The name of what is in memory; bool is bytes."""
    return "uint8" if dtype.kind == "b" else dtype.name


def number_of(dtype: np.dtype) -> str:
    """What numbers of a dtype are compared and added up in."""
    name = stored_as(dtype)
    return "float32" if name in ("float16", "bfloat16") else name


def memory(a: DeviceArray, lanes: int = 1, *run: int, number: str | None = None) -> Memory:
    """An array for a kernel that takes `lanes` numbers at once, at multiples of them in runs of these lengths."""
    align = a.itemsize
    if lanes > 1:
        places = (a.pointer, lanes * a.itemsize, LANE_BYTES, *(n * a.itemsize for n in run))
        align = gcd(*places)
    return Memory(stored_as(a.dtype), lanes, number or number_of(a.dtype), align, a.pointer, a.nbytes)


NOTHING = Memory("uint8", 1, "uint8", 1, 0, 0)


def is_wide(*numbers: int) -> bool:
    """Whether indices made of these need 64 bits."""
    return SIMULATED or max(map(abs, numbers)) >= NARROW


@cache
def _kernel(make, constants, kinds, index, device):
    """The kernel that `make` makes, for arguments of these kinds, on a device.

    It is kept for good: a captured graph launches it by address, and would not keep it from being unloaded.
    """
    function = make(*constants) if constants is not None else make
    signature = [_type(kind, index) for kind in kinds]
    with on_device(device):
        return compiled(function, signature), signature


def _type(kind, index):
    """The type of an argument in a kernel's signature."""
    if isinstance(kind, tuple):
        stored, lanes, number, align = kind
        number = index if number == "index" else number
        return Pointer(stored, lanes, number if SIMULATED else getattr(types, number), align)
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


def _passed(argument):
    """An argument as the driver takes it: an address, or a number of Python's."""
    if isinstance(argument, Memory):
        return argument.address
    return argument.item() if isinstance(argument, np.generic) else argument


def launch(place: DeviceArray, make, constants: tuple | None, *arguments, wide: bool, blocks: int = 0) -> None:
    """Run a kernel where an array lies, on its stream. The last argument is the number of units, one for each thread.

    Or, with `blocks`, so many blocks are to share the units.
    """
    kinds = tuple(map(_kind_of, arguments))
    kernel, signature = _kernel(make, constants, kinds, "int64" if wide else "int32", place.device)
    grid = min(blocks or -(-arguments[-1] // THREADS), BLOCKS)
    pointers = [at for at, argument in enumerate(arguments) if isinstance(argument, Memory)]
    start = partial(_start, kernel, signature, {at: arguments[at].nbytes for at in pointers}, grid, place.device)
    values = [_passed(a) for a in arguments]
    recorder = recording.get()
    if recorder is not None:
        recorder.launched(start, values, [at for at in pointers if values[at]])
    start(values, place.stream())


def _start(kernel, signature, nbytes, grid, device, values, stream):
    if SIMULATED:
        _simulate(kernel, signature, nbytes, grid, values)
        return
    with on_device(device):
        # Past the dispatcher, which would warn of small grids and look at the types of the arguments again.
        chosen = next(iter(kernel.overloads.values()))
        chosen.launch(values, (grid, 1, 1), (THREADS, 1, 1), _stream(device, stream))


def threads_of_a_block() -> int:
    return SIMULATED_THREADS if SIMULATED else THREADS


def _simulate(kernel, signature, nbytes, grid, values):
    values = list(values)
    for at, size in nbytes.items():
        room = (ctypes.c_ubyte * size).from_address(values[at]) if size else b""
        values[at] = signature[at](np.frombuffer(room, np.uint8))
    with _one_at_a_time, warnings.catch_warnings():
        # A card says nothing of what overflows.
        warnings.simplefilter("ignore", RuntimeWarning)
        kernel[min(grid, SIMULATED_BLOCKS), SIMULATED_THREADS](*values)


@cache
def _devices() -> int:
    return 1 if SIMULATED else len(cuda.gpus)


def on_device(device: int):
    """Make a device the current one, where there are several."""
    return nullcontext() if _devices() == 1 else cuda.gpus[device]


@lru_cache(maxsize=256)
def _stream(device: int, handle: int):
    """A stream as kernels are launched on it."""
    return _streams().configure(BLOCKS, 1, _stream_of_numba(handle)).stream


def _stream_of_numba(handle: int):
    return cuda.external_stream(handle) if handle else 0


def _let_wait(waiting: int, stream: int, device: int) -> None:
    """Let a stream wait for all that another has been given so far."""
    if not SIMULATED:
        with on_device(device):
            event = cuda.event(timing=False)
            event.record(_stream_of_numba(stream))
            event.wait(_stream_of_numba(waiting))


@cache
def _streams():
    """A dispatcher that turns any stream into what its version of numba-cuda launches on."""
    return cuda.jit(lambda: None)


class _Moved(Kind):
    """NumPy arrays on their way to a card and back."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        return _moved(np.empty(shape, dtype), False)

    def stream(self, a: DeviceArray) -> int:
        return 0  # on which Numba copies, too


_MOVED = _Moved(None)


def _in_memory_order(a: np.ndarray) -> np.ndarray:
    """A dense array flat, as it lies in memory."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    return a.transpose(order).reshape(-1)


def _moved(a: np.ndarray, with_numbers: bool) -> DeviceArray:
    """A dense NumPy array on the current card; in the simulator main memory is the card's."""
    if SIMULATED:
        return DeviceArray(_MOVED, a, 0, a.ctypes.data, a.shape, a.strides, a.dtype)
    flat = _in_memory_order(a).view(np.uint8)
    there = cuda.to_device(flat) if with_numbers else cuda.device_array(flat.shape, np.uint8)
    device = cuda.current_context().device.id
    address, _ = there.__cuda_array_interface__["data"]
    return DeviceArray(_MOVED, there, device, address, a.shape, a.strides, a.dtype)


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
            if not SIMULATED:
                for i in range(len(arguments) - outputs, len(arguments)):
                    if isinstance(arguments[i], np.ndarray):
                        moved[i].owner.copy_to_host(_in_memory_order(arguments[i]).view(np.uint8))
            return result

        run.on_card = op
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
        _let_wait(mine, other, device)
    result = op(*[a.on(mine) if isinstance(a, DeviceArray) else a for a in arguments], **options)
    for other in set(streams[len(streams) - outputs :]) & others:
        _let_wait(other, mine, device)
    return result


def read_back(a: DeviceArray) -> np.ndarray:
    """The numbers of a small array that was made for one that came from NumPy; waits for the card."""
    return a.owner if SIMULATED else a.owner.copy_to_host().view(a.dtype).reshape(a.shape)
