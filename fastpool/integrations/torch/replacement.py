"""Putting fastpool's pooling into models that exist, and taking it out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fastpool.integrations.torch.layers import MaxPool1d, MaxPool2d, MaxPool3d
from fastpool.integrations.torch.pools import max_pool1d, max_pool2d, max_pool3d

F = nn.functional

_LAYERS: dict[type, type] = {nn.MaxPool1d: MaxPool1d, nn.MaxPool2d: MaxPool2d, nn.MaxPool3d: MaxPool3d}
_PYTORCHS = {ours: theirs for theirs, ours in _LAYERS.items()}

Report = Callable[[str], Any]


def replace_max_pools(module: nn.Module, report: Report | None = None) -> nn.Module:
    """Put a pooling layer of fastpool in the place of each `nn.MaxPool1d`, `2d` and `3d` of a model.

    A layer that is used in several places is replaced by one layer in all of them. Hooks, attributes and the mode of
    training are kept. Calls of functions are not layers: for them see `replace_max_pool_calls`.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; subclasses of PyTorch's pooling layers are left alone, since they may do more.
    report : callable
        Called with one line of text for each place where a layer was replaced: `print`, for instance.

    Returns
    -------
    torch.nn.Module
        `module`, or its replacement if it is a pooling layer itself.

    Examples
    --------
    >>> from torch import nn
    >>> from fastpool.integrations.torch import MaxPool2d, replace_max_pools
    >>> model = replace_max_pools(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), report=print)
    1: MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    >>> type(model[1]) is MaxPool2d
    True
    """
    return _replaced(module, {pool: _as(_LAYERS[type(pool)], pool) for pool in _found(module, _LAYERS)}, report)


def restore_max_pools(module: nn.Module, report: Report | None = None) -> nn.Module:
    """The way back from `replace_max_pools`: PyTorch's own layers in the place of fastpool's.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. `MaxPool1d`, `MaxPool2d` and `MaxPool3d` of fastpool are replaced, wherever they came from.
    report : callable
        As in `replace_max_pools`.

    Returns
    -------
    torch.nn.Module
        `module`, or its replacement if it is a pooling layer itself.

    Raises
    ------
    ValueError
        For a layer whose padding PyTorch's does not have, more than half of its window for instance; then nothing is
        changed.

    Examples
    --------
    >>> from torch import nn
    >>> from fastpool.integrations.torch import MaxPool2d, restore_max_pools
    >>> type(restore_max_pools(nn.Sequential(MaxPool2d(2)))[0]) is nn.MaxPool2d
    True
    """
    return _replaced(module, {pool: _restored(pool) for pool in _found(module, _PYTORCHS)}, report)


def _found(module: nn.Module, classes: dict[type, type]) -> Iterator[nn.Module]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__module__}.{type(module).__qualname__}")
    return (pool for pool in module.modules() if type(pool) in classes)


def _as(layer: type, pool: nn.Module) -> nn.Module:
    new = copy(pool)  # with its hooks, which can still be removed by their handles
    new.__class__ = layer
    return new


def _restored(pool: Any) -> nn.Module:
    padding = pool.standard_padding
    new: Any = _as(_PYTORCHS[type(pool)], pool)
    if not isinstance(pool.padding, int):
        new.padding = padding
    return new


def _replaced(module: nn.Module, new: dict[nn.Module, nn.Module], report: Report | None) -> nn.Module:
    for path, child in list(module.named_modules(remove_duplicate=False)):
        if child not in new:
            continue
        if path:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, new[child])
        if report is not None:
            report(f"{path or 'the module itself'}: {new[child]!r}")
    return new.get(module, module)


def _with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    """A pool with the arguments of PyTorch's functions that always return indices."""

    def pool_with_indices(*args: Any, **kwargs: Any) -> Any:
        return pool(*args[:6], **{**kwargs, "return_indices": True})

    return pool_with_indices


_FUNCTIONS: dict[Any, tuple[str, Callable[..., Any]]] = {
    torch.max_pool1d: ("max_pool1d", max_pool1d),
    torch.max_pool2d: ("max_pool2d", max_pool2d),
    torch.max_pool3d: ("max_pool3d", max_pool3d),
    torch.max_pool1d_with_indices: ("max_pool1d", _with_indices(max_pool1d)),
    F.max_pool1d: ("max_pool1d", max_pool1d),
    F.max_pool2d: ("max_pool2d", max_pool2d),
    F.max_pool3d: ("max_pool3d", max_pool3d),
    F.max_pool1d_with_indices: ("max_pool1d", _with_indices(max_pool1d)),
    F.max_pool2d_with_indices: ("max_pool2d", _with_indices(max_pool2d)),
    F.max_pool3d_with_indices: ("max_pool3d", _with_indices(max_pool3d)),
}


class _Calls(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, pool = _FUNCTIONS.get(func, ("", func))
        if name:
            self.counts[name] += 1
        return pool(*args, **(kwargs or {}))


@contextmanager
def replace_max_pool_calls() -> Iterator[Counter[str]]:
    """A context in which calls of `torch.nn.functional.max_pool1d`, `2d` and `3d` are fastpool's.

    For models whose `forward` calls the functions. Each call in this thread is replaced, whatever name the function was
    imported by, and those of PyTorch's layers too; nothing else is changed. As a decorator of a function or of a
    `forward`, it does so in each of its calls.

    Yields
    ------
    collections.Counter
        How many calls of each function were replaced so far; those in code that is compiled are counted when it is.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import replace_max_pool_calls
    >>> def forward(x):
    ...     return torch.nn.functional.max_pool2d(x, 2) + torch.nn.functional.avg_pool2d(x, 2)
    >>> with replace_max_pool_calls() as calls:
    ...     y = forward(torch.zeros(1, 1, 4, 4))
    >>> calls
    Counter({'max_pool2d': 1})
    """
    counts: Counter[str] = Counter()
    with _Calls(counts):
        yield counts
