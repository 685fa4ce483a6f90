"""A planned call becomes one that can be run: its kernel gets a name, and by this name an address."""

from __future__ import annotations

from collections.abc import Callable

from fastpool.backends.numba import library
from fastpool.backends.numba._launch import Call
from fastpool.backends.numba.encoding import encode, join_name
from fastpool.backends.numba.launching import runner
from fastpool.backends.numba.plan.call import KernelCall


def kernel_name(planned: KernelCall) -> str:
    codes, _ = encode(planned.constants)
    return join_name(planned.kernel, planned.dtypes, codes)


def bound_call(planned: KernelCall) -> Call:
    """The call with the address of its kernel, which is compiled if the library has none."""
    codes, words = encode(planned.constants)
    address, keep = library.find(join_name(planned.kernel, planned.dtypes, codes))
    itemsizes = tuple(0 if dtype is None else dtype.itemsize for dtype in planned.dtypes)
    return Call(address, itemsizes, words, planned.items, planned.cost_bytes, planned.scratch_bytes, keep)


def bound(planned: KernelCall) -> Callable[..., None]:
    """A function of the call's arrays, in the kernel's order."""
    return runner(bound_call(planned))
