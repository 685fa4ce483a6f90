"""Convolution as im2col and matrix products, in blocks, so that the columns stay small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastpool import arrays, forms
from fastpool.arguments import integer, required_stride
from fastpool.arrays import Array
from fastpool.backends import kernel
from fastpool.device_arrays import DeviceArray
from fastpool.dtypes import native, sum_dtype
from fastpool.out import check_out
from fastpool.type_hints import A, Padding, Size
from fastpool.window import Window

# Of the columns that are made at once: on the CPU they stay in the last cache, on a GPU products must be large.
BLOCK_BYTES = 16 * 2**20
GPU_BLOCK_BYTES = 256 * 2**20
# Windows as rows are multiplied faster where they stay in the second cache. A block has twice the bytes of the filters
# where that is more, but no more than BLOCK_BYTES: every block reads all of them. Depthwise filters are few.
ROWS_BLOCK_BYTES = 4 * 2**20
DEPTHWISE_BLOCK_BYTES = 2**20


class _Block:
    """Some rows of windows of some images, and the input rows that they cover.

    `window` is the geometry of the block alone, None if it covers nothing but padding.
    """

    __slots__ = ("image_count", "images", "positions", "rows_in", "rows_out", "taps", "window")

    def __init__(self, whole: Window, images: slice, rows_out: slice) -> None:
        self.images, self.image_count = images, images.stop - images.start
        self.rows_in, self.rows_out = slice(*whole.covered_rows(rows_out.start, rows_out.stop)), rows_out
        self.positions = (rows_out.stop - rows_out.start) * whole.out[2]
        self.taps = whole.channels * whole.volume
        self.window = whole.of_rows(self.image_count, rows_out.start, rows_out.stop)


def _blocks(window: Window, x: Array, block_bytes: int | None = None) -> Iterator[_Block]:
    """Images and rows of windows whose columns fit into a block's bytes, at least one row at a time."""
    row = max(window.channels * window.volume * window.out[2] * _product_dtype(x).itemsize, 1)
    block_bytes = block_bytes or (GPU_BLOCK_BYTES if isinstance(x, DeviceArray) else BLOCK_BYTES)
    rows = max(block_bytes // row, 1)
    if rows >= window.out[1]:
        images = max(rows // window.out[1], 1)
        for n in range(0, window.batch, images):
            yield _Block(window, slice(n, min(n + images, window.batch)), slice(0, window.out[1]))
        return
    for n in range(window.batch):
        for r in range(0, window.out[1], rows):
            yield _Block(window, slice(n, n + 1), slice(r, min(r + rows, window.out[1])))


def _window_and_groups(x, w, stride, padding, dilation, groups, data_format) -> tuple[Window, int]:
    if x.ndim != 4:
        raise ValueError(f"x must have shape (N, C, H, W), or (N, H, W, C) with channels_last, got {x.shape}")
    if w.ndim != 4 or min(w.shape) < 1:
        raise ValueError(f"w must have shape (O, C / groups, KH, KW) without empty axes, got {w.shape}")
    groups = integer("groups", groups)
    window = Window.plan(2, x.shape, w.shape[2:], required_stride(stride), padding, dilation, False, data_format)
    if groups < 1 or window.channels % groups or w.shape[0] % groups:
        raise ValueError(
            f"groups must divide the channels of x ({window.channels}) and the filters of w ({w.shape[0]}), "
            f"got {groups}"
        )
    if w.shape[1] * groups != window.channels:
        raise ValueError(
            f"w must have {window.channels // groups} channels for x with {window.channels} in {groups} groups, "
            f"got {w.shape[1]}"
        )
    return window, groups


def _channels_first(a: Array, data_format: str) -> Array:
    return a if data_format == "channels_first" else a.transpose((0, 3, 1, 2))


def _as_asked(a: Array, data_format: str) -> Array:
    return a if data_format == "channels_first" else a.transpose((0, 2, 3, 1))


def _library_array(a: Array) -> Any:
    """An array as its library has it, which multiplies and adds: NumPy, or on a GPU CuPy or PyTorch."""
    return a.to_library() if isinstance(a, DeviceArray) else a


def _check_multiplies(x: Array) -> None:
    if isinstance(x, DeviceArray) and not hasattr(type(x.owner), "__matmul__"):
        kind = f"{type(x.owner).__module__}.{type(x.owner).__qualname__}"
        raise TypeError(f"x must be an array that its library can multiply, as CuPy and PyTorch can, got {kind}")


def _product_dtype(x: Array) -> np.dtype:
    """In which dtype products are made: libraries for GPUs add those of two-byte floats in float32 by themselves."""
    dtype = native(x.dtype)
    return dtype if isinstance(x, DeviceArray) else sum_dtype(dtype)


def _converted(a: Array, dtype: np.dtype) -> Array:
    """An array in the dtype of products, or back from it; on a GPU, where the two are the same, as it is."""
    return a if isinstance(a, DeviceArray) else a.astype(dtype, copy=False)


def _zeros(shape: tuple[int, ...], dtype: np.dtype, like: Array) -> Array:
    a = arrays.empty(shape, dtype, like)
    _library_array(a)[...] = 0
    return a


def conv2d(
    x: A,
    w: A,
    b: Any = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Two-dimensional convolution (cross-correlation), as `torch.nn.functional.conv2d`.

    Made of `im2col` and BLAS products, or sums of products where each filter has a channel of its own, in blocks of
    images or rows: the columns take at most 16 MB (256 on a GPU), or what one row of windows has where that is more.

    Parameters
    ----------
    x : array of shape (N, C, H, W), or channels_last (N, H, W, C); float16, bfloat16, float32 or float64
    w : array of shape (O, C / groups, KH, KW) in both data formats, with the dtype of `x`
    b : array of shape (O,) with the dtype of `x`, optional
    stride, padding, dilation
        As in `max_pool2d`, but stride defaults to 1, and the padding is zeros.
    groups : int
        Filters of each group see the channels of their group alone.
    data_format, backend
        As in `max_pool2d`; the backend makes the columns.
    out : array of the shape and dtype of the result

    Returns
    -------
    array of shape (N, O, OH, OW), or channels_last (N, OH, OW, O), with the dtype of `x`
        float16 and bfloat16 are multiplied and summed in float32 and rounded once. Where `x` has its channels last in
        memory, and the groups are one or one for each channel and filter, so has the result.

    Raises
    ------
    TypeError, ValueError
        For dtypes that differ or are not floating, and for shapes that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> fp.conv2d(x, np.ones((1, 1, 2, 2)))[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    return _convolved(x, w, b, stride, padding, dilation, groups, data_format, out, backend)


def _convolved(x, w, b, stride, padding, dilation, groups, data_format, out, backend) -> Any:
    original, x = x, arrays.read("x", x, floats_only=True)
    im2col = kernel("im2col", backend, x.device)
    w = arrays.read("w", w, floats_only=True)
    window, groups = _window_and_groups(x, w, stride, padding, dilation, groups, data_format)
    dtype, total = native(x.dtype), _product_dtype(x)
    w = arrays.expect("w", w, w.shape, dtype, "x", x)
    filters, (oh, ow) = w.shape[0], window.out[1:]
    if b is not None:
        b = arrays.expect("b", b, (filters,), dtype, "x", x)
    _check_multiplies(x)
    # All filters see all channels, or each has a channel of its own.
    by_rows = (groups == 1 or groups == filters == window.channels) and _channels_last(x, window, data_format)

    shape = (window.batch, filters, oh, ow)
    if out is not None:
        shape = shape if data_format == "channels_first" else (window.batch, oh, ow, filters)
        y = check_out(out, shape, dtype, (x, w) if b is None else (x, w, b), original)
        y = _channels_first(y, data_format)
    elif by_rows:
        y = arrays.empty((window.batch, oh, ow, filters), dtype, x).transpose((0, 3, 1, 2))
    else:
        y = arrays.empty(shape, dtype, x)

    x, w = _channels_first(x, data_format), _converted(w, total)
    bias = None if b is None else _library_array(_converted(b, total))
    if by_rows:
        _product_of_rows(x, w, bias, window, groups > 1, total, im2col, y)
    else:
        _product_of_columns(x, w, bias, window, groups, total, im2col, y)
    return arrays.to_library(_as_asked(y, data_format), original, out)


def _channels_last(x: Array, window: Window, data_format: str) -> bool:
    """Whether an array in main memory has its channels last there; one channel is last if the caller says so."""
    if isinstance(x, DeviceArray):
        return False
    return data_format == "channels_last" if window.channels == 1 else forms.channels_last_in_memory(x, window)


def _product_of_columns(x, w, bias, window, groups, total, im2col, y) -> None:
    weights = _library_array(w).reshape(groups, w.shape[0] // groups, -1)
    for block in _blocks(window, x):
        columns = _columns(x, block, groups, total, im2col)
        product = (weights @ columns).reshape(w.shape[0], block.image_count, -1, window.out[2])
        if bias is not None:
            product += bias[:, None, None, None]
        _library_array(y[block.images, :, block.rows_out])[...] = product.swapaxes(0, 1)


def _product_of_rows(x, w, bias, window, depthwise, total, im2col, y) -> None:
    """One row for each window, so that the products have their channels last, as `x` and `y` have them in memory."""
    filters = w.shape[0]
    weights = w.transpose((2, 3, 1, 0)).reshape(-1, filters)
    large = min(max(ROWS_BLOCK_BYTES, 2 * weights.nbytes), BLOCK_BYTES)
    for block in _blocks(window, x, DEPTHWISE_BLOCK_BYTES if depthwise else large):
        target = y[block.images, :, block.rows_out].transpose((0, 2, 3, 1))
        in_place = target.dtype == total and target.flags.c_contiguous
        product = target.reshape(-1, filters) if in_place else np.empty((target.size // filters, filters), total)
        rows = _rows(x, block, window, total, im2col)
        if depthwise:
            np.einsum("lkc,kc->lc", rows.reshape(-1, window.volume, filters), weights, out=product)
        else:
            np.matmul(rows, weights, out=product)
        if bias is not None:
            product += bias
        if not in_place:
            target[...] = product.reshape(target.shape)


def _rows(x: Any, block: _Block, whole: Window, total: np.dtype, im2col: Any) -> Any:
    """The windows of one block as rows, (images * positions, KH * KW * C)."""
    window = block.window
    if window is None:
        return np.zeros((block.image_count * block.positions, block.taps), total)
    cells = _converted(x[block.images, :, block.rows_in], total)
    if whole.volume == 1 and not any(whole.before + whole.after):
        (_, sh, sw), (_, oh, ow) = window.stride, window.out
        taken = cells.transpose((0, 2, 3, 1))[:, : oh * sh : sh, : ow * sw : sw]
        return taken.reshape(-1, block.taps)
    rows = np.empty((block.image_count, block.positions, window.volume, window.channels), total)
    channels_last = forms.channels_last_in_memory(cells, window)
    cells = forms.canonical(cells, window, channels_last, window.size)
    im2col(cells, window, total.type(0), rows.transpose((0, 3, 2, 1)))
    return rows.reshape(-1, block.taps)


def _columns(x: Array, block: _Block, groups: int, total: np.dtype, im2col: Any) -> Any:
    """The columns of one block, (groups, C / groups * KH * KW, images * positions): one product for all its images."""
    window = block.window
    if window is None:
        cols = _zeros((block.taps, block.image_count * block.positions), total, x)
    else:
        cells = _converted(x[block.images, :, block.rows_in], total)
        cols = arrays.empty((window.channels, window.volume, window.batch, window.positions), total, x)
        channels_last = forms.channels_last_in_memory(cells, window)
        cells = forms.canonical(cells, window, channels_last, window.size)
        im2col(cells, window, total.type(0), cols.transpose((2, 0, 1, 3)))
    return _library_array(cols).reshape(groups, block.taps // groups, -1)


def _cells(cols: Any, block: _Block, x: Array, total: np.dtype, col2im: Any) -> Any:
    """The adjoint of `_columns`: the cells (images, C, rows, W) under a block that covers some."""
    window: Window = block.window  # type: ignore[assignment]
    cells = arrays.empty((window.batch * window.channels, *window.size, 1), total, x)
    cols = arrays.read("cols", cols.reshape(window.channels, window.volume, window.batch, window.positions))
    col2im(cols.transpose((2, 0, 1, 3)), window, cells)
    return _library_array(cells.reshape(window.x_shape))


def conv2d_backward(
    dy: A,
    x: A,
    w: A,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    data_format: str = "channels_first",
    backend: str | None = None,
) -> tuple[A, A, A]:
    """Gradients of `conv2d` with respect to its input, its filters and its bias.

    Parameters
    ----------
    dy : array of the shape of `y`, with the dtype of `x`
    x, w, stride, padding, dilation, groups, data_format, backend
        As in the forward pass.

    Returns
    -------
    dx, dw, db : arrays of the shapes of `x`, `w` and (O,), with the dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As `conv2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> x = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> dx, dw, db = fp.conv2d_backward(np.ones((1, 1, 1, 1)), x, np.full((1, 1, 2, 2), 3.0))
    >>> dx[0, 0], dw[0, 0], db
    (array([[3., 3.],
           [3., 3.]]), array([[0., 1.],
           [2., 3.]]), array([1.]))
    """
    return _gradients(dy, x, w, stride, padding, dilation, groups, data_format, backend)


def _gradients(dy, x, w, stride, padding, dilation, groups, data_format, backend) -> Any:
    original, x = x, arrays.read("x", x, floats_only=True)
    im2col, col2im = (kernel(op, backend, x.device) for op in ("im2col", "col2im"))
    w = arrays.read("w", w, floats_only=True)
    dy = arrays.read("dy", dy, floats_only=True)
    window, groups = _window_and_groups(x, w, stride, padding, dilation, groups, data_format)
    dtype, total = native(x.dtype), _product_dtype(x)
    w = arrays.expect("w", w, w.shape, dtype, "x", x)
    filters, (oh, ow) = w.shape[0], window.out[1:]
    dy_shape = (window.batch, filters, oh, ow)
    expected = dy_shape if data_format == "channels_first" else (window.batch, oh, ow, filters)
    dy = arrays.expect("dy", dy, expected, dtype, "the forward pass", x)
    _check_multiplies(x)

    x, dy = _channels_first(x, data_format), _channels_first(dy, data_format)
    weights = _library_array(_converted(w, total)).reshape(groups, filters // groups, -1)
    dx, dw, db = (_zeros(shape, total, x) for shape in (x.shape, weights.shape, weights.shape[:2]))
    for block in _blocks(window, x):
        grads = _library_array(_converted(dy[block.images, :, block.rows_out], total))
        grads = grads.swapaxes(0, 1).reshape(groups, filters // groups, -1)
        _add(dw, grads @ _columns(x, block, groups, total, im2col).swapaxes(1, 2))
        _add(db, grads.sum(-1))
        if block.window is not None:
            dcols = weights.swapaxes(1, 2) @ grads
            _add(dx[block.images, :, block.rows_in], _cells(dcols, block, x, total, col2im))
    gradients = _as_asked(dx, data_format), dw.reshape(w.shape), db.reshape((filters,))
    return arrays.to_library(tuple(_converted(a, dtype) for a in gradients), original)


def _add(total: Array, more: Any) -> None:
    a = _library_array(total)
    a += more
