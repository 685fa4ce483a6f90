"""Max pooling over one, two or three spatial axes, its gradient, and its inverse by indices."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastpool import arrays
from fastpool.backends import backend_for, chosen, kernel
from fastpool.indices import check_argmax, check_indices, check_positions, check_range, values_with_positions
from fastpool.kinds import DeviceArray, again, lazy
from fastpool.window import Padding, Window, check_layout, check_shape, frozen_window

Size = int | tuple[int, ...]


def _pool(axes, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend) -> Any:
    arguments = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    backend, return_argmax = chosen(backend), bool(return_argmax)
    if type(x) is np.ndarray and x.flags.carray:
        prepared = _prepared(axes, x.shape, x.dtype, backend, *arguments)
        result = prepared and prepared(x, return_argmax, out)
        if result is not None:
            return result
    if (graphs := lazy(x)) is not None:
        return graphs.max_pool(axes, x, *arguments, return_argmax, out, backend)
    static = axes, *arguments, return_argmax, backend
    return again(_pool_any, (x,), static, out)


def _pool_any(
    given, axes, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, backend, out
) -> Any:
    x = arrays.read("x", given)
    window = Window.plan(axes, x.shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    return arrays.as_given(forward(x, window, return_argmax, out, backend, given), given, out)


class Prepared(NamedTuple):
    """Pooling of a C-contiguous array, with all that is known beforehand looked up: of a small one in half the time."""

    run: Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]
    y_shape: tuple[int, ...]
    dtype: np.dtype
    window: Window

    def __call__(self, x: np.ndarray, return_argmax: bool, out: Any) -> Any:
        """None for an `out` that the kernel cannot write to."""
        run, shape, dtype, window = self
        y = argmax = None
        if out is not None:
            y, argmax = arrays.split_out(out, return_argmax)
        y = np.empty(shape, dtype) if y is None else arrays.contiguous_out(y, shape, dtype, (x,))
        if y is None:
            return None
        if not return_argmax:
            run(x, y, None)
            return y
        dtype = window.argmax_dtype
        argmax = np.empty(shape, dtype) if argmax is None else arrays.contiguous_out(argmax, shape, dtype, (x, y))
        if argmax is None:
            return None
        run(x, y, argmax)
        return y, argmax

    @staticmethod
    def plan(window: Window, outer: int, inner: int, dtype: np.dtype, backend: str | None) -> Prepared | None:
        """None where the backend has no such thing, or the array is not one for it."""
        prepare = getattr(backend_for("max_pool", backend), "prepared_max_pool", None)
        if prepare is None or not (dtype.isnative and arrays.supported(dtype) and outer * inner):
            return None
        dtype = arrays.native(dtype)
        run = prepare(window, outer, inner, dtype)
        return run and Prepared(run, window.y_shape, dtype, window)


class PreparedBackward(NamedTuple):
    """The same for its gradient."""

    run: Callable[[np.ndarray, np.ndarray, np.ndarray], bool]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    dtype: np.dtype
    argmax_dtype: np.dtype

    def __call__(self, dy: np.ndarray, argmax: np.ndarray, out: Any) -> np.ndarray | None:
        """None for what does not fit, which is then refused by those who say why, and as `Prepared`."""
        if dy.shape != self.y_shape or argmax.shape != self.y_shape or argmax.dtype != self.argmax_dtype:
            return None
        shape, dtype = self.x_shape, self.dtype
        dx = np.empty(shape, dtype) if out is None else arrays.contiguous_out(out, shape, dtype, (dy, argmax))
        return dx if dx is not None and self.run(dy, argmax, dx) else None

    @staticmethod
    def plan(window: Window, outer: int, inner: int, dtype: np.dtype, backend: str | None) -> PreparedBackward | None:
        prepare = getattr(backend_for("max_pool_backward", backend), "prepared_max_pool_backward", None)
        if prepare is None or not (dtype.isnative and arrays.is_float(dtype) and outer * inner):
            return None
        dtype = arrays.native(dtype)
        run = prepare(window, outer, inner, dtype)
        return run and PreparedBackward(run, window.x_shape, window.y_shape, dtype, window.argmax_dtype)


@lru_cache(maxsize=4096, typed=True)
def _prepared(axes, shape, dtype, backend, *arguments) -> Prepared | None:
    return Prepared.plan(*_planned(axes, shape, *arguments), dtype, backend)


@lru_cache(maxsize=4096, typed=True)
def _prepared_backward(axes, shape, dtype, backend, *arguments) -> PreparedBackward | None:
    return PreparedBackward.plan(*_planned(axes, shape, *arguments), dtype, backend)


def _planned(axes, shape, *arguments) -> tuple[Window, int, int]:
    """A window with how many planes lie before and numbers inside its cells, for C-contiguous arrays."""
    window = Window.plan(axes, shape, *arguments)
    if window.channels > 1 and window.channel_axis == len(shape) - 1:
        return window, window.batch, window.channels
    return window, window.batch * window.channels, 1


def forward(x: Any, window: Window, return_argmax: bool, out: Any, backend: str | None, given: Any) -> Any:
    """Pool a checked array, which was `given` as the caller has it, over a planned window."""
    max_pool = kernel("max_pool", backend, x.device)
    dtype = arrays.native(x.dtype)
    y_out, argmax_out = arrays.split_out(out, return_argmax)
    if y_out is not None:
        y_out = arrays.check_out(y_out, window.y_shape, dtype, (x,), given)
    if argmax_out is not None:
        argmax_out = arrays.check_out(argmax_out, window.y_shape, window.argmax_dtype, (x, y_out), given)

    inside = arrays.channels_inside(x, window)
    y = arrays.target(y_out, window, inside, window.y_shape, window.out, dtype, x)
    source = arrays.canonical(x, window, inside, window.size)
    if not return_argmax:
        if source.size:
            max_pool(source, window, y.canonical, None)
        return y.done()
    argmax = arrays.target(argmax_out, window, inside, window.y_shape, window.out, window.argmax_dtype, x)
    if source.size:
        max_pool(source, window, y.canonical, argmax.canonical)
    return y.done(), argmax.done()


def _pool_backward(
    axes, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
) -> Any:
    arguments = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    x_shape, backend = check_shape("x_shape", x_shape), chosen(backend)
    if type(dy) is type(argmax) is np.ndarray and dy.flags.carray and argmax.flags.carray:
        prepared = _prepared_backward(axes, x_shape, dy.dtype, backend, *arguments)
        dx = prepared and prepared(dy, argmax, out)
        if dx is not None:
            return dx
    if (graphs := lazy(dy)) is not None:
        return graphs.max_pool_backward(axes, dy, argmax, x_shape, *arguments, out, backend)
    static = axes, x_shape, *arguments, backend
    return again(_pool_backward_any, (dy, argmax), static, out)


def _pool_backward_any(
    dy, argmax, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, backend, out
) -> Any:
    window = Window.plan(axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format)
    given, dy = dy, arrays.read("dy", dy, floats_only=True)
    return backward(dy, argmax, window, out, backend, given)


def backward(dy: Any, argmax: Any, window: Window, out: Any, backend: str | None, given: Any) -> Any:
    """Send checked gradients, which were `given` as the caller has them, to the winners of a planned window."""
    max_pool_backward = kernel("max_pool_backward", backend, dy.device)
    if dy.shape != window.y_shape:
        raise ValueError(f"dy must have the shape {window.y_shape} of the pooled array, got {dy.shape}")
    argmax = arrays.like("argmax", argmax, window.y_shape, window.argmax_dtype, "this window's forward pass", dy)
    dtype = arrays.native(dy.dtype)
    room = None if out is None else arrays.check_out(out, window.x_shape, dtype, (dy, argmax), given)

    inside = arrays.channels_inside(dy, window)
    winners = arrays.canonical(argmax, window, inside, window.out)
    check_argmax(winners, window, backend)
    dx = arrays.target(room, window, inside, window.x_shape, window.size, dtype, dy)
    if winners.size:
        max_pool_backward(arrays.canonical(dy, window, inside, window.out), winners, window, dx.canonical)
    return arrays.as_given(dx.done(), given, out)


def max_pool1d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the length of signals.

    As `max_pool2d` in every respect, with one spatial axis.

    Parameters
    ----------
    x : array of shape (N, C, L), (C, L) or (L,); channels_last: (N, L, C), (L, C)

    Returns
    -------
    array of shape (N, C, OL) and so on, with the dtype of `x`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_pool1d(np.array([1, 3, 2, 5, 4]), 3, stride=2)
    array([3, 5])
    """
    return _pool(1, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


def max_pool2d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the height and width of images, as `torch.nn.functional.max_pool2d`.

    Padding never wins: a window of padding alone gives the lowest value of the dtype. Of equal
    values the first in row-major order wins; a NaN beats every number, the first NaN wins.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); channels_last: (N, H, W, C), (H, W, C)
        bool, any integer, float16, bfloat16 (ml_dtypes), float32 or float64; any strides and byte order. A NumPy
        array, a PyTorch tensor, a CuPy array, or whatever has `__cuda_array_interface__` or DLPack.
    kernel_size, stride, dilation : int or one int for each axis
        `stride` defaults to `kernel_size`.
    padding : int, one for each axis, a (before, after) pair for each, "valid", "same" or "same_lower"
        "same" gives ceil(size / stride) windows, with the odd cell of padding at the end
        (TensorFlow's SAME, ONNX's SAME_UPPER), "same_lower" at the start.
    ceil_mode : bool
        Keep a last window that hangs over the end, if it starts inside the input or its leading padding.
    data_format : "channels_first" or "channels_last"
        Which axes of `x` mean what. Either order in memory is read where it lies, without a copy.
    return_argmax : bool
        Also return which cell of each window won.
    out : array, or (y, argmax) with return_argmax
        Where to write the result, instead of to new memory.
    backend : "numba", "cython", "numpy", "naive" or "cuda"
        A NumPy array goes to a card by "cuda" alone, and comes back; an array that lies on one stays there.

    Returns
    -------
    y : array of shape (N, C, OH, OW) and so on, with the dtype of `x`, and of its kind
    argmax : array of the shape of `y`, with return_argmax
        The winner's offset inside its window, `kh * KW + kw`, in uint8 where it fits, else uint16 or uint32.

    Raises
    ------
    TypeError
        For a dtype or a kind of array that is not supported.
    ValueError
        For shapes, sizes or an `out` that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(4, 4)
    >>> fp.max_pool2d(x, 2)
    array([[ 5.,  7.],
           [13., 15.]])
    >>> y, argmax = fp.max_pool2d(x, 3, stride=2, padding=1, return_argmax=True)
    >>> argmax
    array([[8, 8],
           [8, 8]], dtype=uint8)
    """
    return _pool(2, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


def max_pool3d(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    return_argmax: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Max pooling over the depth, height and width of volumes.

    As `max_pool2d` in every respect, with three spatial axes.

    Parameters
    ----------
    x : array of shape (N, C, D, H, W), (C, D, H, W) or (D, H, W); channels_last: (N, D, H, W, C), (D, H, W, C)

    Returns
    -------
    array of shape (N, C, OD, OH, OW) and so on, with the dtype of `x`

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_pool3d(np.arange(64).reshape(4, 4, 4), 2)[1, 1]
    array([61, 63])
    """
    return _pool(3, x, kernel_size, stride, padding, dilation, ceil_mode, data_format, return_argmax, out, backend)


def max_pool1d_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Gradient of `max_pool1d` with respect to its input; see `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool1d(np.array([1.0, 3.0, 2.0, 5.0]), 2, return_argmax=True)
    >>> fp.max_pool1d_backward(np.array([10.0, 20.0]), argmax, (4,), 2)
    array([ 0., 10.,  0., 20.])
    """
    return _pool_backward(
        1, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def max_pool2d_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Gradient of `max_pool2d` with respect to its input: each dy goes to the cell that won.

    The same bits every run, whatever the number of threads: a cell that won several windows receives
    their gradients in row-major order. float16 and bfloat16 are summed in float32 and rounded once.

    Parameters
    ----------
    dy : array of the shape of `y`; float16, bfloat16, float32 or float64
    argmax : array of the shape of `y`
        As `max_pool2d` returned it, from the same window.
    x_shape : tuple of int
        The shape of the input of the forward pass.
    kernel_size, stride, padding, dilation, ceil_mode, data_format, backend
        As in the forward pass.
    out : array of `x_shape`
        Where to write the result; what it held is lost.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError
        For a dy that is not floating, or an argmax of another dtype.
    ValueError
        For shapes that do not fit, or an argmax that names a cell outside its window or in the padding. An argmax on a
        card is not looked at, since the call would have to wait for it: what it misplaces goes nowhere.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.array([[1.0, 9.0], [3.0, 4.0]])
    >>> y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    >>> fp.max_pool2d_backward(np.array([[5.0]]), argmax, x.shape, 2)
    array([[0., 5.],
           [0., 0.]])
    """
    return _pool_backward(
        2, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def max_pool3d_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Gradient of `max_pool3d` with respect to its input; see `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.max_pool3d(np.arange(8.0).reshape(2, 2, 2), 2, return_argmax=True)
    >>> fp.max_pool3d_backward(np.array([[[1.0]]]), argmax, (2, 2, 2), 2)[1, 1]
    array([0., 1.])
    """
    return _pool_backward(
        3, dy, argmax, x_shape, kernel_size, stride, padding, dilation, ceil_mode, data_format, out, backend
    )


def whole(x_shape: tuple[int, ...], data_format: str) -> Window:
    """The one window that covers all spatial axes of a batch."""
    data_format = check_layout(data_format)
    if not 3 <= len(x_shape) <= 5:
        raise ValueError(
            f"x must have a batch, a channel and one to three spatial axes, as (N, C, H, W), got shape {x_shape}"
        )
    space = x_shape[2:] if data_format == "channels_first" else x_shape[1:-1]
    if min(space) < 1:
        raise ValueError(f"every spatial axis of x must hold at least one cell, got shape {x_shape}")
    return Window.plan(len(space), x_shape, space, None, 0, 1, False, data_format)


def _without_space(name: str, a: Any, window: Window, keepdims: bool) -> Any:
    """An array of shape (N, C) seen with spatial axes of size 1; anything else unchanged, for the pool to judge."""
    flat = (window.batch, window.channels)
    if keepdims or a is None:
        return a
    if isinstance(getattr(a, "shape", None), tuple) and a.shape == flat:
        return a.reshape(window.y_shape)
    raise ValueError(f"{name} must be an array of shape {flat}, got {getattr(a, 'shape', a)!r}")


def global_max_pool(
    x: Any,
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    return_argmax: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The maximum over all spatial axes, as Keras' GlobalMaxPooling and ONNX' GlobalMaxPool.

    Parameters
    ----------
    x : array of shape (N, C, *S) or, channels_last, (N, *S, C), with one to three spatial axes
    keepdims : bool
        Keep the spatial axes with size 1, as ONNX does.
    return_argmax : bool
        Also return where the maximum was: its row-major offset in the plane.
    data_format, out, backend
        As in `max_pool2d`.

    Returns
    -------
    y : array of shape (N, C), with the dtype of `x`
    argmax : array of the same shape in uint8, uint16 or uint32, with return_argmax

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.global_max_pool(np.arange(24).reshape(1, 2, 3, 4))
    array([[11, 23]])
    """
    return_argmax = bool(return_argmax)
    if (graphs := lazy(x)) is not None:
        return graphs.global_max_pool(x, data_format, keepdims, return_argmax, out, backend)
    given, x = x, arrays.read("x", x)
    window = whole(x.shape, data_format)
    outs = tuple(_without_space("out", o, window, keepdims) for o in arrays.split_out(out, return_argmax))
    found = forward(x, window, return_argmax, outs if return_argmax else outs[0], backend, given)
    if keepdims:
        return arrays.as_given(found, given, out)
    flat = (window.batch, window.channels)
    found = tuple(f.reshape(flat) for f in found) if return_argmax else found.reshape(flat)
    return arrays.as_given(found, given, out)


def global_max_pool_backward(
    dy: Any,
    argmax: Any,
    x_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    keepdims: bool = False,
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Gradient of `global_max_pool` with respect to its input.

    Parameters
    ----------
    dy, argmax : arrays of the shape of `y`
    x_shape : tuple of int
        The shape of the input of the forward pass.
    data_format, keepdims, out, backend
        As in the forward pass.

    Returns
    -------
    array of `x_shape`, with the dtype of `dy`

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> y, argmax = fp.global_max_pool(np.array([[[1.0, 3.0, 2.0]]]), return_argmax=True)
    >>> fp.global_max_pool_backward(np.array([[5.0]]), argmax, (1, 1, 3))
    array([[[0., 5., 0.]]])
    """
    if (graphs := lazy(dy)) is not None:
        return graphs.global_max_pool_backward(dy, argmax, x_shape, data_format, keepdims, out, backend)
    x_shape = check_shape("x_shape", x_shape)
    window = whole(x_shape, data_format)
    given, dy = dy, arrays.read("dy", dy, floats_only=True)
    dy = _without_space("dy", dy, window, keepdims)
    argmax = _without_space("argmax", arrays.read("argmax", argmax), window, keepdims)
    return backward(dy, argmax, window, out, backend, given)


def _unpool(axes, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend):
    given, y = y, arrays.read("y", y)
    on_card, module = isinstance(y, DeviceArray), backend_for("max_unpool", backend, y.device)
    window = Window.unpool(axes, y.shape, output_shape, kernel_size, stride, padding, data_format)
    indices = arrays.read("indices", indices)
    inside = arrays.channels_inside(y, window)
    by_indices = getattr(module, "max_unpool_by_indices", None)
    check_indices(indices, window, convention)
    indices = arrays.like("indices", indices, window.y_shape, indices.dtype, "y", y)
    if not on_card:
        check_range(indices, window, convention)
        if out is not None or by_indices is not None:  # else a fresh result is dropped where a block is found invalid
            check_positions(indices, window, convention, inside)
    dtype = arrays.native(y.dtype)
    room = None if out is None else arrays.check_out(out, window.x_shape, dtype, (y, indices), given)

    x = arrays.target(room, window, inside, window.x_shape, window.size, dtype, y)
    if not x.canonical.size:
        return arrays.as_given(x.done(), given, out)
    values = arrays.canonical(y, window, inside, window.out)
    if by_indices is not None:
        by_indices(values, arrays.canonical(indices, window, inside, window.out), window, convention, x.canonical)
    else:
        x.canonical[...] = 0
        for planes, some, positions in values_with_positions(values, indices, window, convention, inside):
            module.max_unpool(some, positions, x.canonical[planes])
    return arrays.as_given(x.done(), given, out)


def max_unpool1d(
    y: Any,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Put values back to where they came from along signals; see `max_unpool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool1d(np.array([3, 5]), np.array([1, 3]), 2)
    array([0, 3, 0, 5])
    """
    return _unpool(1, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)


def max_unpool2d(
    y: Any,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Put the values of a max pooling back to the cells they came from, zeros elsewhere.

    Parameters
    ----------
    y : array of shape (N, C, OH, OW), (C, OH, OW) or (OH, OW), or with the channels last
        Any dtype that `max_pool2d` takes.
    indices : integer array of the shape of `y`
        Where each value goes, counted as `convention` counts (see `argmax_to_indices`). -1 stands for a window
        of padding alone and is passed over. Where several values go to one cell, the last in row-major order of
        the windows stays (in overlapping windows they are the same value).
    kernel_size, stride, padding : as in the pooling
        They give the default of `output_shape`, and with convention="chainer" the place of each window.
    output_shape : tuple of int
        The shape of the pooled input, all axes or the spatial ones; by default `(OH - 1) * stride + kernel_size`
        less the padding.
    convention : "torch", "onnx", "tensorflow" or "chainer"
    data_format, out, backend
        As in `max_pool2d`.

    Returns
    -------
    array of `output_shape`, with the dtype of `y`

    Raises
    ------
    TypeError
        For indices that are not integers.
    ValueError
        For an index outside the output; nothing is written then. Indices on a card are not looked at, since the call
        would have to wait for them: a value whose index is outside goes nowhere.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool2d(np.array([[7]]), np.array([[2]]), 2)
    array([[0, 0],
           [7, 0]])
    """
    return _unpool(2, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)


def max_unpool3d(
    y: Any,
    indices: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    output_shape: tuple[int, ...] | None = None,
    convention: str = "torch",
    data_format: str = "channels_first",
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> np.ndarray:
    """Put values back to where they came from in volumes; see `max_unpool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.max_unpool3d(np.array([[[7]]]), np.array([[[5]]]), 2).ravel()
    array([0, 0, 0, 0, 0, 7, 0, 0])
    """
    return _unpool(3, y, indices, kernel_size, stride, padding, output_shape, convention, data_format, out, backend)
