"""Arrays of other libraries: how to tell them, where their numbers lie, how to make another, how to give one back.

A tensor of PyTorch's in main memory is seen as a NumPy array. An array on a GPU is seen as a `DeviceArray`, which has
the part of a NumPy array's interface that needs no numbers: shape, strides, views. No library is imported here that the
caller has not imported, and nothing waits for a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from importlib import import_module
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fastpool.replay import recording


class _Flags(NamedTuple):
    c_contiguous: bool
    aligned: bool
    writeable: bool


def _packed_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= max(n, 1)
    return tuple(reversed(strides))


class DeviceArray:
    """Where an array on a GPU lies: its address, shape, strides in bytes, dtype, and what keeps its memory alive.

    `named_stream` is the stream that its library names as the one on which the array is written, or None.
    """

    def __init__(
        self,
        kind: Kind,
        owner: Any,
        device: int,
        pointer: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        dtype: np.dtype,
        writeable: bool = True,
        named_stream: int | None = None,
    ) -> None:
        self.kind, self.owner, self.device, self.pointer, self.dtype = kind, owner, device, pointer, dtype
        self.shape, self.ndim, self.size = shape, len(shape), prod(shape)
        self.strides = _packed_strides(shape, dtype.itemsize) if strides is None else strides
        self.itemsize, self.nbytes = dtype.itemsize, self.size * dtype.itemsize
        self._writeable, self.named_stream = writeable, named_stream

    @cached_property
    def flags(self) -> _Flags:
        packed = _packed_strides(self.shape, self.itemsize)
        contiguous = all(n < 2 or s == p for n, s, p in zip(self.shape, self.strides, packed, strict=True))
        aligned = all(place % self.itemsize == 0 for place in (self.pointer, *self.strides))
        return _Flags(contiguous or self.size == 0, aligned, self._writeable)

    def view(self, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> DeviceArray:
        """The same memory in another shape."""
        return self._like(shape, strides, self.named_stream)

    def on(self, stream: int) -> DeviceArray:
        """The same array for work on a stream."""
        return self._like(self.shape, self.strides, stream)

    def _like(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, stream: int | None) -> DeviceArray:
        memory = (self.kind, self.owner, self.device, self.pointer)
        return DeviceArray(*memory, shape, strides, self.dtype, self._writeable, stream)

    def transpose(self, *axes: Any) -> DeviceArray:
        """A view with its axes in another order, which is one sequence or several integers."""
        order = axes if isinstance(axes[0], int) else axes[0]
        return self.view(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order))

    def reshape(self, *shape: Any) -> DeviceArray:
        """Another shape of a contiguous array; of any, one that differs in axes of 1."""
        sizes = tuple(shape[0]) if isinstance(shape[0], Sequence) else shape
        if -1 in sizes:
            known = -prod(sizes)
            sizes = tuple(self.size // known if n == -1 else n for n in sizes)
        if self.flags.c_contiguous:
            return self.view(sizes, None)
        strides = iter([s for n, s in zip(self.shape, self.strides, strict=True) if n != 1])
        if [n for n in sizes if n != 1] != [n for n in self.shape if n != 1]:
            raise ValueError(f"an array of shape {self.shape} and strides {self.strides} has no view of shape {sizes}")
        return self.view(sizes, tuple(self.itemsize if n == 1 else next(strides) for n in sizes))

    def __getitem__(self, index: tuple[slice, ...]) -> DeviceArray:
        """A part of it: a slice without a step for each of its first axes."""
        shape, offset = list(self.shape), 0
        for axis, part in enumerate(index):
            start, stop, _ = part.indices(self.shape[axis])
            shape[axis] = max(stop - start, 0)
            offset += start * self.strides[axis]
        view = self.view(tuple(shape), self.strides)
        view.pointer += offset
        return view

    def extent(self) -> tuple[int, int]:
        """The first address of its memory, and the first behind it."""
        if self.size == 0:
            return self.pointer, self.pointer
        reaches = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.pointer + sum(r for r in reaches if r < 0)
        return low, self.pointer + sum(r for r in reaches if r > 0) + self.itemsize

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """A new array of the same kind on the same GPU."""
        fresh = self.kind.empty(shape, dtype, self)
        recorder = recording.get()
        if recorder is not None:
            recorder.made(fresh)
        return fresh

    def compact(self) -> DeviceArray:
        """A contiguous copy."""
        copy = self.empty(self.shape, self.dtype)
        copy.assign(self)
        return copy

    def assign(self, source: DeviceArray) -> None:
        """Copy the numbers of another array of the same kind, shape and dtype."""
        recorder = recording.get()
        if recorder is not None:
            recorder.whole = False
        if self.size:
            self.kind.copy(source, self)

    def without_memory(self) -> DeviceArray:
        """An empty array of the same kind in the same place."""
        return DeviceArray(self.kind, None, self.device, 0, (), (), self.dtype)

    def given(self) -> Any:
        """The array as its own library has it: a result."""
        recorder = recording.get()
        if recorder is not None:
            recorder.results.append(self)
        return self.kind.give(self)

    def stream(self) -> int:
        """The stream for work on this array, as the driver's handle; 0 where neither it nor its library names one."""
        return self.kind.stream(self) if self.named_stream is None else self.named_stream


# The driver's handle of the default stream. 0 means the same only where per-thread default streams are off.
LEGACY_STREAM = 1


class Kind:
    """What is done in one way for each library."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def holds(self, x: Any) -> bool:
        """Whether `x` is an array of this kind."""
        raise NotImplementedError

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        """`x`, without a copy."""
        raise NotImplementedError

    def from_numpy(self, a: np.ndarray, like: Any) -> Any:
        """A NumPy array as this kind has it in main memory, without a copy."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        raise NotImplementedError

    def give(self, a: DeviceArray) -> Any:
        raise NotImplementedError

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        raise NotImplementedError

    def stream(self, a: DeviceArray) -> int:
        """The stream on which the caller works now, for an array that names none."""
        raise NotImplementedError

    def look(self, x: Any) -> tuple[Any, int] | None:
        """All that a call depends on but the address, and the address; None if calls are not to be repeated."""
        return None

    def address(self, x: Any) -> int:
        """Where an array of the library lies on a GPU."""
        raise NotImplementedError

    def maker(self, a: DeviceArray) -> Callable[[], Any]:
        """A function that makes an array of the library with the shape, strides, dtype and device of `a`."""
        raise NotImplementedError


def bfloat16() -> np.dtype:
    """The dtype that ml_dtypes gives NumPy for it."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError("arrays of bfloat16 need ml_dtypes: pip install ml_dtypes") from None
    return np.dtype(bfloat16)


class Torch(Kind):
    def holds(self, x: Any) -> bool:
        return isinstance(x, getattr(self.library, "Tensor", ()))

    def _dtype(self, name: str, x: Any) -> np.dtype:
        text = str(x.dtype).removeprefix("torch.")
        if text == "bfloat16":
            return bfloat16()
        try:
            return np.dtype(text)
        except TypeError:
            raise TypeError(f"{name} has a dtype that no array of NumPy's has: {x.dtype}") from None

    @staticmethod
    def _has_tangent(x: Any) -> bool:
        """Whether `x` is a dual number of forward-mode differentiation."""
        return sys.modules["torch"].autograd.forward_ad.unpack_dual(x).tangent is not None

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        torch = self.library
        if x.layout != torch.strided:
            raise TypeError(f"{name} must be a strided tensor, got layout {x.layout}")
        if x.requires_grad and torch.is_grad_enabled():
            raise TypeError(
                f"{name} requires grad, which fastpool does not record; give {name}.detach(), or call it within "
                "torch.no_grad() or from a torch.autograd.Function"
            )
        if self._has_tangent(x):
            raise TypeError(
                f"{name} has a tangent, which fastpool does not carry on; take fastpool.integrations.torch for "
                f"forward-mode gradients, or give torch.autograd.forward_ad.unpack_dual({name}).primal"
            )
        dtype = self._dtype(name, x)
        x = x.detach()
        if x.device.type == "cpu":
            return x.view(torch.int16).numpy().view(dtype) if x.dtype == torch.bfloat16 else x.numpy()
        if x.device.type != "cuda":
            raise TypeError(f"{name} must be a tensor on the CPU or on a CUDA device, got one on {x.device}")
        return self.device_array(x, dtype)

    def device_array(self, x: Any, dtype: np.dtype) -> DeviceArray:
        strides = tuple(s * dtype.itemsize for s in x.stride())
        return DeviceArray(self, x, x.device.index or 0, x.data_ptr(), tuple(x.shape), strides, dtype)

    def from_numpy(self, a: np.ndarray, like: Any) -> Any:
        if a.dtype.kind == "V":
            x = self.library.from_numpy(a.view(np.int16)).view(self.library.bfloat16)
        else:
            x = self.library.from_numpy(a)
        return x if a.size else x.new_empty(a.shape)  # NumPy's empty arrays have strides of 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        x = self.library.empty(shape, dtype=getattr(self.library, dtype.name), device=like.owner.device)
        return self.device_array(x, dtype)

    def give(self, a: DeviceArray) -> Any:
        x = a.owner
        offset = x.storage_offset() + (a.pointer - x.data_ptr()) // a.itemsize
        return x.as_strided(a.shape, tuple(s // a.itemsize for s in a.strides), offset)

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        self.give(target).copy_(self.give(source))

    def stream(self, a: DeviceArray) -> int:
        return self._stream_of(a.device) or LEGACY_STREAM

    @cached_property
    def _stream_of(self) -> Any:
        """The handle of a device's current stream: PyTorch's own shortcut, which Triton takes too, where it has one."""
        current = self.library.cuda.current_stream
        shortcut = getattr(getattr(self.library, "_C", None), "_cuda_getCurrentRawStream", None)
        return shortcut or (lambda device: current(device).cuda_stream)

    def look(self, x: Any) -> tuple[Any, int] | None:
        if x.requires_grad or not x.is_cuda or self._has_tangent(x):
            return None
        return (x.shape, x.stride(), x.dtype, x.device, x.layout), x.data_ptr()

    def address(self, x: Any) -> int:
        return x.data_ptr()

    def maker(self, a: DeviceArray) -> Callable[[], Any]:
        steps, dtype = tuple(s // a.itemsize for s in a.strides), getattr(self.library, a.dtype.name)
        return partial(self.library.empty_strided, a.shape, steps, dtype=dtype, device=a.owner.device)


class Cupy(Kind):
    def holds(self, x: Any) -> bool:
        return isinstance(x, getattr(self.library, "ndarray", ()))

    def read(self, name: str, x: Any) -> DeviceArray:
        return self.device_array(x)

    def device_array(self, x: Any) -> DeviceArray:
        return DeviceArray(self, x, x.device.id, x.data.ptr, x.shape, x.strides, x.dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        with self.library.cuda.Device(like.device):
            return self.device_array(self.library.empty(shape, dtype))

    def give(self, a: DeviceArray) -> Any:
        memory = a.owner.data + (a.pointer - a.owner.data.ptr)
        return self.library.ndarray(a.shape, a.dtype, memptr=memory, strides=a.strides)

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        with self.library.cuda.Device(target.device):
            self.give(target)[...] = self.give(source)

    def stream(self, a: DeviceArray) -> int:
        return self.library.cuda.get_current_stream(a.device).ptr or LEGACY_STREAM

    def look(self, x: Any) -> tuple[Any, int] | None:
        return (x.shape, x.strides, x.dtype, x.device.id), x.data.ptr

    def address(self, x: Any) -> int:
        return x.data.ptr

    def maker(self, a: DeviceArray) -> Callable[[], Any]:
        shape, strides, dtype, library, device = a.shape, a.strides, a.dtype, self.library, a.device

        def make() -> Any:
            with library.cuda.Device(device):
                x = library.empty(shape, dtype)
            return x if x.strides == strides else library.ndarray(shape, dtype, memptr=x.data, strides=strides)

        return make


class Dask(Kind):
    """Arrays without elements yet: ops that can wait for them hand over to `fastpool.integrations.dask.lazy`."""

    def holds(self, x: Any) -> bool:
        return isinstance(x, getattr(self.library, "Array", ()))

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        raise TypeError(
            f"{name} must not be a Dask array here, which pooling, maxout and the activations take, all inputs being "
            f"Dask arrays; give {name}.compute(), or call this function within dask.array.map_blocks"
        )


class Exported(Kind):
    """Whatever has `__cuda_array_interface__`: Numba's device arrays, and what is like them.

    What is made for it is a device array of Numba's, which all such libraries take. Work goes on the stream that the
    array names, else on Numba's default one, and the results name the stream that the array names.
    """

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        told = x.__cuda_array_interface__
        if told.get("mask") is not None:
            raise TypeError(f"{name} must not be a masked array; fill it first")
        pointer, read_only = told["data"]
        shape, strides, dtype = tuple(told["shape"]), told.get("strides"), np.dtype(told["typestr"])
        if dtype.kind == "V" and str(getattr(x, "dtype", None)) == "bfloat16":  # the interface has no name for it
            dtype = bfloat16()
        memory = (self, x, self._device_of(pointer), pointer)
        return DeviceArray(*memory, shape, strides, dtype, not read_only, told.get("stream"))

    def _device_of(self, pointer: int) -> int:
        if len(self.library.gpus) == 1:
            return 0
        from cuda.bindings import driver

        _, device = driver.cuPointerGetAttribute(
            driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer
        )
        return int(device)

    def from_numpy(self, a: np.ndarray, like: Any) -> Any:
        return a

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, like: DeviceArray) -> DeviceArray:
        with self.library.gpus[like.device]:
            x = self.library.device_array(shape, dtype)
        address, _ = x.__cuda_array_interface__["data"]
        return DeviceArray(self, x, like.device, address, shape, None, dtype, named_stream=like.named_stream)

    def give(self, a: DeviceArray) -> Any:
        # As unsigned integers first, because the interface has no name for bfloat16.
        told = {
            "data": (a.pointer, False),
            "shape": a.shape,
            "strides": a.strides,
            "typestr": f"<u{a.itemsize}",
            "stream": a.named_stream,
            "version": 3,
        }
        with self.library.gpus[a.device]:
            return self.library.from_cuda_array_interface(told, owner=a.owner, sync=False).view(a.dtype)

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        # Numba's own copy waits for the GPU.
        import_module("fastpool.backends.cuda").copy(source, target)

    def stream(self, a: DeviceArray) -> int:
        return 0


class _DLTensor(ctypes.Structure):
    """The beginning of DLPack's DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Dlpack(Exported):
    """Whatever has DLPack and names no stream. Its library orders its work before that of the default stream, ours.

    JAX's arrays come this way: their `__cuda_array_interface__` neither names a stream nor waits for the array.
    """

    _IN_MAIN_MEMORY, _ON_GPU = (1, 3), (2, 13)  # kDLCPU and kDLCUDAHost, kDLCUDA and kDLCUDAManaged
    _CODES = MappingProxyType({0: "i", 1: "u", 2: "f", 6: "b"})

    def read(self, name: str, x: Any) -> np.ndarray | DeviceArray:
        place = int(x.__dlpack_device__()[0])
        if place in self._IN_MAIN_MEMORY:
            return np.from_dlpack(x)
        if place not in self._ON_GPU:
            raise TypeError(f"{name} must lie in main memory or on a CUDA device, got DLPack's device type {place}")
        capsule = x.__dlpack__(stream=LEGACY_STREAM)
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = _DLTensor.from_address(get_pointer(capsule, b"dltensor"))
        dtype = self._dtype(name, tensor)
        shape = tuple(tensor.shape[: tensor.ndim])
        strides = tuple(s * dtype.itemsize for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
        pointer = (tensor.data or 0) + tensor.byte_offset
        # The capsule lets go of the memory when it dies.
        memory = (self, (x, capsule), tensor.device, pointer)
        return DeviceArray(*memory, shape, strides, dtype, named_stream=LEGACY_STREAM)

    def _dtype(self, name: str, tensor: _DLTensor) -> np.dtype:
        if (tensor.code, tensor.bits, tensor.lanes) == (4, 16, 1):
            return bfloat16()
        if tensor.code not in self._CODES or tensor.lanes != 1:
            raise TypeError(f"{name} has a dtype that no array of NumPy's has: DLPack's code {tensor.code}")
        return np.dtype(f"{self._CODES[tensor.code]}{tensor.bits // 8}")

    def from_numpy(self, a: np.ndarray, like: Any) -> Any:
        namespace = getattr(like, "__array_namespace__", None)
        return a if namespace is None else namespace().from_dlpack(a)


@cache
def _kind(name: str) -> Kind:
    """The kind of a library's arrays, or that of a protocol."""
    if name in _LIBRARIES:
        return _LIBRARIES[name](sys.modules[name])
    try:
        library = import_module("numba.cuda")
    except ImportError as error:
        raise RuntimeError(f'arrays on a GPU need numba-cuda: pip install "fastpool[cuda]" ({error})') from None
    return Exported(library) if name == "exported" else Dlpack(library)


_LIBRARIES: dict[str, type[Kind]] = {"torch": Torch, "cupy": Cupy, "dask.array": Dask}


def kind_of(x: Any) -> Kind | None:
    """The kind of an array that is not NumPy's; None for all else. Asks only libraries that are already imported."""
    if isinstance(x, (np.ndarray, np.generic)):
        return None
    for name in _LIBRARIES:
        if name in sys.modules and _kind(name).holds(x):
            return _kind(name)
    told = getattr(x, "__cuda_array_interface__", None)
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__") and (told is None or told.get("stream") is None):
        return _kind("dlpack")
    return None if told is None else _kind("exported")
