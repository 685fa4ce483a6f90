"""Keras' own layers and operators on fastpool, in Keras' NumPy backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from inspect import signature
from threading import Lock
from typing import Any

import keras
import numpy as np

import fastpool as fp
from fastpool.dtypes import is_float

# Convolution by columns takes less time than that of JAX, on which Keras' NumPy backend relies, where windows have one
# cell or few numbers, where there are few windows, or where many filters share the cost of the columns. Measured on one
# thread.
FEW_NUMBERS_IN_A_WINDOW = 36
FEW_WINDOWS = 256
MANY_FILTERS = 512


def use_in_numpy_backend() -> ExitStack:
    """Let Keras' operators, and so its layers, run on fastpool in Keras' NumPy backend.

    These are max, average, adaptive and global pooling, convolution and depthwise convolution of images with the
    channels last, `unfold` and `fold`, `silu` (swish) and `hard_silu` (hard-swish), in `keras.ops`, `keras.layers` and
    `keras.activations`. Results are those of Keras up to rounding. What fastpool does not do, or not faster, is done as
    before: averages and activations of integers, convolutions of large images to few filters. `fold` needs Keras 3.14,
    adaptive pooling 3.13.

    It holds from the call on, for the whole process, until it is undone.

    Returns
    -------
    contextlib.ExitStack
        Undo it with `close()`, or use it in a `with` block.

    Raises
    ------
    RuntimeError
        If Keras runs on another backend, or a function that is to be replaced is not the one that this release of
        fastpool knows: it belongs to no public interface of Keras. Nothing has been replaced then.

    Examples
    --------
    >>> import keras
    >>> import numpy as np
    >>> from fastpool.integrations.keras import use_in_numpy_backend
    >>> with use_in_numpy_backend():  # doctest: +SKIP
    ...     keras.layers.MaxPooling2D()(np.zeros((1, 4, 4, 3), "float32"))
    """
    if keras.backend.backend() != "numpy":
        raise RuntimeError(
            f"Keras runs on its backend {keras.backend.backend()!r}; start Python with KERAS_BACKEND=numpy to use this"
        )
    with _lock:
        if not _users:
            for module, name, own, ours in list(_to_replace()):
                _replaced.callback(setattr, module, name, own)
                setattr(module, name, partial(ours, own))
        undo = ExitStack()
        _users.append(undo)
    undo.callback(_leave, undo)
    return undo


# Who has not undone it yet. The last of them takes out what the first put in.
_users: list[ExitStack] = []
_replaced = ExitStack()
_lock = Lock()


def _leave(user: ExitStack) -> None:
    with _lock:
        _users.remove(user)
        if not _users:
            _replaced.close()


def _to_replace() -> Any:
    """Of each function to replace: its module, its name, Keras' own, and what replaces it."""
    backend = import_module("keras.src.backend")
    known = 0
    for (place, name), ours in REPLACEMENTS.items():
        module = getattr(backend, place, None)
        own = getattr(module, name, None)
        if own is None:  # an older version of Keras
            continue
        known += 1
        if _parameters(own) != _parameters(partial(ours, own)):
            raise RuntimeError(
                f"Keras {keras.__version__} has keras.src.backend.{place}.{name}{signature(own)}, which this release "
                f"of fastpool knows as {name}{signature(partial(ours, own))}; use another version of one of them"
            )
        yield module, name, own, ours
    if not known:
        raise RuntimeError(f"Keras {keras.__version__} has no functions in keras.src.backend that fastpool knows")


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(p.name, p.default) for p in signature(function).parameters.values()]


def _is_float(*xs: Any) -> bool:
    return all(isinstance(x, np.ndarray) and is_float(x.dtype) and x.dtype == xs[0].dtype for x in xs)


def _for_axes(x: np.ndarray, *functions: Callable[..., Any]) -> Callable[..., Any]:
    """The function for so many spatial axes."""
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"inputs must have a batch, a channel and one to three spatial axes, got shape {x.shape}")
    return functions[x.ndim - 3]


def _layout(data_format: str | None) -> str:
    return data_format or keras.config.image_data_format()


# Each function has the parameters of Keras' own, which comes before them.


def _max_pool(own, inputs, pool_size, strides=None, padding="valid", data_format=None):
    x = np.asarray(inputs)
    pool = _for_axes(x, fp.max_pool1d, fp.max_pool2d, fp.max_pool3d)
    return pool(x, pool_size, strides, padding, data_format=_layout(data_format))


def _average_pool(own, inputs, pool_size, strides=None, padding="valid", data_format=None):
    if not _is_float(inputs):
        return own(inputs, pool_size, strides, padding, data_format)
    pool = _for_axes(inputs, fp.avg_pool1d, fp.avg_pool2d, fp.avg_pool3d)
    return pool(inputs, pool_size, strides, padding, count_include_pad=False, data_format=_layout(data_format))


def _adaptive_max_pool(own, inputs, output_size, data_format=None):
    x = np.asarray(inputs)
    pool = _for_axes(x, fp.adaptive_max_pool1d, fp.adaptive_max_pool2d, fp.adaptive_max_pool3d)
    return pool(x, output_size, data_format=_layout(data_format))


def _adaptive_average_pool(own, inputs, output_size, data_format=None):
    if not _is_float(inputs):
        return own(inputs, output_size, data_format)
    pool = _for_axes(inputs, fp.adaptive_avg_pool1d, fp.adaptive_avg_pool2d, fp.adaptive_avg_pool3d)
    return pool(inputs, output_size, data_format=_layout(data_format))


def _global_layout(x: Any, axis: Any) -> str | None:
    """In which data_format the axes of a reduction are all spatial axes of an array; None if in neither."""
    if not (_is_float(x) and 3 <= x.ndim <= 5 and x.size and isinstance(axis, (int, tuple, list))):
        return None
    axes = sorted(a + x.ndim if a < 0 else a for a in ((axis,) if isinstance(axis, int) else axis))
    if axes == list(range(1, x.ndim - 1)):
        return "channels_last"
    return "channels_first" if axes == list(range(2, x.ndim)) else None


def _max(own, x, axis=None, keepdims=False, initial=None):
    layout = _global_layout(x, axis) if initial is None else None
    if layout is None:
        return own(x, axis, keepdims, initial)
    return fp.global_max_pool(x, data_format=layout, keepdims=keepdims)


def _mean(own, x, axis=None, keepdims=False):
    layout = _global_layout(x, axis)
    return own(x, axis, keepdims) if layout is None else fp.global_avg_pool(x, data_format=layout, keepdims=keepdims)


def _conv(own, inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
    x, kernel = inputs, keras.ops.convert_to_tensor(kernel)  # that of a layer is a variable
    if not (_is_float(x, kernel) and x.ndim == 4 and _layout(data_format) == "channels_last"):
        return own(x, kernel, strides, padding, data_format, dilation_rate)
    *window, channels, filters = kernel.shape
    sh, sw = (strides, strides) if isinstance(strides, int) else strides
    windows = len(x) * (x.shape[1] // sh) * (x.shape[2] // sw)
    numbers = window[0] * window[1] * channels
    fast = numbers <= FEW_NUMBERS_IN_A_WINDOW or windows <= FEW_WINDOWS or filters >= MANY_FILTERS
    if channels != x.shape[-1] or not (fast or window == [1, 1]):
        return own(x, kernel, strides, padding, data_format, dilation_rate)
    w = kernel.transpose(3, 2, 0, 1)
    return fp.conv2d(x, w, None, strides, padding, dilation_rate, data_format="channels_last")


def _depthwise_conv(own, inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
    x, kernel = inputs, keras.ops.convert_to_tensor(kernel)
    one_filter_each = _is_float(x, kernel) and x.ndim == 4 and kernel.shape[2:] == (x.shape[-1], 1)
    if not (one_filter_each and _layout(data_format) == "channels_last"):
        return own(x, kernel, strides, padding, data_format, dilation_rate)
    w = kernel.transpose(2, 3, 0, 1)
    return fp.conv2d(x, w, None, strides, padding, dilation_rate, x.shape[-1], data_format="channels_last")


def _unfold(own, input, kernel_size, dilation=1, padding=0, stride=1):
    return fp.im2col(np.asarray(input), kernel_size, stride, padding, dilation)


def _fold(own, x, output_size, kernel_size, dilation=1, padding=0, stride=1):
    cols = np.asarray(x)
    kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    shape = (len(cols), cols.shape[1] // (kh * kw), *size)
    return fp.col2im(cols, shape, (kh, kw), stride, padding, dilation)


def _silu(own, x):
    return fp.swish(x) if _is_float(x) else own(x)


def _hard_silu(own, x):
    return fp.hard_swish(x) if _is_float(x) else own(x)


# Of the package keras.src.backend: module and name of each function that is replaced.
REPLACEMENTS: dict[tuple[str, str], Callable[..., Any]] = {
    ("nn", "max_pool"): _max_pool,
    ("nn", "average_pool"): _average_pool,
    ("nn", "adaptive_max_pool"): _adaptive_max_pool,
    ("nn", "adaptive_average_pool"): _adaptive_average_pool,
    ("numpy", "max"): _max,
    ("numpy", "mean"): _mean,
    ("nn", "conv"): _conv,
    ("nn", "depthwise_conv"): _depthwise_conv,
    ("nn", "unfold"): _unfold,
    ("nn", "fold"): _fold,
    ("nn", "silu"): _silu,
    ("nn", "hard_silu"): _hard_silu,
}
