"""Convolution as im2col and matrix products, in blocks, so that the columns stay small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.arguments import integer
from fastpool.backends import kernel
from fastpool.kinds import DeviceArray
from fastpool.signatures import A, Padding, Size
from fastpool.window import Window

BLOCK_BYTES = 16 * 2**20
CARD_BLOCK_BYTES = 256 * 2**20


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


def _blocks(window: Window, itemsize: int) -> Iterator[_Block]:
    """Images and rows of windows whose columns fit into BLOCK_BYTES, at least one row at a time."""
    row = max(window.channels * window.volume * window.out[2] * itemsize, 1)
    rows = max(BLOCK_BYTES // row, 1)
    if rows >= window.out[1]:
        images = max(rows // window.out[1], 1)
        for n in range(0, window.batch, images):
            yield _Block(window, slice(n, min(n + images, window.batch)), slice(0, window.out[1]))
        return
    for n in range(window.batch):
        for r in range(0, window.out[1], rows):
            yield _Block(window, slice(n, n + 1), slice(r, min(r + rows, window.out[1])))


def _plan(x, w, stride, padding, dilation, groups, data_format) -> tuple[Window, int]:
    if x.ndim != 4:
        raise ValueError(f"x must have shape (N, C, H, W), or (N, H, W, C) with channels_last, got {x.shape}")
    if w.ndim != 4 or min(w.shape) < 1:
        raise ValueError(f"w must have shape (O, C / groups, KH, KW) without empty axes, got {w.shape}")
    groups = integer("groups", groups)
    window = Window.plan(2, x.shape, w.shape[2:], stride, padding, dilation, False, data_format)
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


def _channels_first(a: np.ndarray, data_format: str) -> np.ndarray:
    return a if data_format == "channels_first" else np.moveaxis(a, -1, 1)


def _as_asked(a: np.ndarray, data_format: str, out: np.ndarray | None) -> np.ndarray:
    a = a if data_format == "channels_first" else np.moveaxis(a, 1, -1)
    if out is None:
        return a
    out[...] = a
    return out


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

    Made of `im2col` and BLAS products in blocks of images or rows, so that the columns take some tens of MB at most.

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
        float16 and bfloat16 are multiplied and summed in float32 and rounded once.

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
    given, x = x, arrays.read("x", x, floats_only=True)
    im2col = kernel("im2col", backend, x.device)
    w = arrays.read("w", w, floats_only=True)
    window, groups = _plan(x, w, stride, padding, dilation, groups, data_format)
    dtype, total = arrays.native(x.dtype), arrays.sum_dtype(arrays.native(x.dtype))
    w = arrays.like("w", w, w.shape, dtype, "x", x)
    filters, (oh, ow) = w.shape[0], window.out[1:]
    if b is not None:
        b = arrays.like("b", b, (filters,), dtype, "x", x)
    y_shape = (window.batch, filters, oh, ow)
    room = None
    if out is not None:
        shape = y_shape if data_format == "channels_first" else (window.batch, oh, ow, filters)
        room = arrays.check_out(out, shape, dtype, (x, w) if b is None else (x, w, b), given)
    if isinstance(x, DeviceArray):
        return _on_card(x, w, b, window, groups, data_format, room, out, im2col)

    x = _channels_first(x, data_format)
    weights = w.reshape(groups, filters // groups, -1).astype(total)
    y = np.empty(y_shape, dtype)
    for block in _blocks(window, total.itemsize):
        cols = _columns(x, block, groups, total, im2col)
        product = np.matmul(weights, cols).reshape(filters, block.image_count, -1, ow)
        if b is not None:
            product += b[:, None, None, None].astype(total, copy=False)
        y[block.images, :, block.rows_out] = product.swapaxes(0, 1)
    return arrays.as_given(_as_asked(y, data_format, room), given, out)


def _columns(x: np.ndarray, block: _Block, groups: int, total: np.dtype, im2col: Any) -> np.ndarray:
    """The columns of one block, (groups, C / groups * KH * KW, images * positions): one product for all its images."""
    window = block.window
    if window is None:
        return np.zeros((groups, block.taps // groups, block.image_count * block.positions), total)
    cells = x[block.images, :, block.rows_in].astype(total, copy=False)
    inside = arrays.channels_inside(cells, window)
    cols = np.empty((window.channels, window.volume, window.batch, window.positions), total)
    im2col(arrays.canonical(cells, window, inside, window.size), window, total.type(0), cols.transpose(2, 0, 1, 3))
    return cols.reshape(groups, block.taps // groups, -1)


def _cells(cols: np.ndarray, block: _Block, col2im: Any) -> np.ndarray:
    """The adjoint of `_columns`: the cells (images, C, rows, W) under a block that covers some."""
    window: Window = block.window  # type: ignore[assignment]
    cells = np.empty((window.batch * window.channels, *window.size, 1), cols.dtype)
    cols = cols.reshape(window.channels, window.volume, window.batch, window.positions)
    col2im(cols.transpose(2, 0, 1, 3), window, cells)
    return cells.reshape(window.x_shape)


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
    given, x = x, arrays.read("x", x, floats_only=True)
    im2col, col2im = (kernel(op, backend, x.device) for op in ("im2col", "col2im"))
    w = arrays.read("w", w, floats_only=True)
    dy = arrays.read("dy", dy, floats_only=True)
    window, groups = _plan(x, w, stride, padding, dilation, groups, data_format)
    dtype, total = arrays.native(x.dtype), arrays.sum_dtype(arrays.native(x.dtype))
    w = arrays.like("w", w, w.shape, dtype, "x", x)
    filters, (oh, ow) = w.shape[0], window.out[1:]
    dy_shape = (window.batch, filters, oh, ow)
    expected = dy_shape if data_format == "channels_first" else (window.batch, oh, ow, filters)
    dy = arrays.like("dy", dy, expected, dtype, "the forward pass", x)
    if isinstance(x, DeviceArray):
        return _backward_on_card(dy, x, w, window, groups, data_format, im2col, col2im)

    x, dy = _channels_first(x, data_format), _channels_first(dy, data_format)
    weights = w.reshape(groups, filters // groups, -1).astype(total)
    dx, dw = np.zeros(x.shape, total), np.zeros(weights.shape, total)
    for block in _blocks(window, total.itemsize):
        slopes = dy[block.images, :, block.rows_out].astype(total, copy=False)
        slopes = slopes.swapaxes(0, 1).reshape(groups, filters // groups, -1)
        dw += np.matmul(slopes, _columns(x, block, groups, total, im2col).swapaxes(1, 2))
        if block.window is not None:
            dcols = np.matmul(weights.swapaxes(1, 2), slopes)
            dx[block.images, :, block.rows_in] += _cells(dcols, block, col2im)
    dx = _as_asked(dx.astype(dtype, copy=False), data_format, None)
    db = dy.sum(axis=(0, 2, 3), dtype=total)
    return arrays.as_given((dx, dw.reshape(w.shape).astype(dtype), db.astype(dtype)), given)


# On a card the columns are the kernels', the rest is what CuPy and PyTorch have in common: @, slices, views, sums.


def _matrices(
    x: DeviceArray, window: Window, groups: int, filters: int
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """How many images have their columns made at once, and the shapes of columns and outputs, by image and group."""
    if not hasattr(type(x.owner), "__matmul__"):
        kind = f"{type(x.owner).__module__}.{type(x.owner).__qualname__}"
        raise TypeError(f"x must be an array that its library can multiply, as CuPy and PyTorch can, got {kind}")
    taps = window.channels * window.volume
    images = max(CARD_BLOCK_BYTES // max(taps * window.positions * x.itemsize, 1), 1)
    return images, (-1, groups, taps // groups, window.positions), (-1, groups, filters // groups, window.positions)


def _images(a: DeviceArray, first: int, count: int) -> DeviceArray:
    """Some images of an array whose first axis is theirs."""
    count = min(count, a.shape[0] - first)
    part = a.view((count, *a.shape[1:]), a.strides)
    part.pointer += first * a.strides[0]
    return part


def _of_images(window: Window, count: int) -> Window:
    """The same windows over fewer images, channels first."""
    return window._replace(batch=count, x_shape=(count, *window.x_shape[1:]), y_shape=(count, *window.y_shape[1:]))


def _columns_on_card(x: DeviceArray, window: Window, im2col: Any, images_inside: bool) -> DeviceArray:
    """The columns, indexed [image, channel, tap, position], in this order or with the images next to the positions."""
    image, of_image = (window.batch,), (window.channels, window.volume)
    if images_inside:
        whole = x.empty((*of_image, *image, window.positions), x.dtype)
        cols = whole.transpose((2, 0, 1, 3))
    else:
        whole = cols = x.empty((*image, *of_image, window.positions), x.dtype)
    if cols.size:
        inside = arrays.channels_inside(x, window)
        im2col(arrays.canonical(x, window, inside, window.size), window, 0, cols)
    return whole


def _on_card(x, w, b, window, groups, data_format, room, out, im2col) -> Any:
    filters = w.shape[0]
    images, columns_shape, shape = _matrices(x, window, groups, filters)
    y_shape = (window.batch, filters, *window.out[1:])
    y = x.empty(y_shape, x.dtype)
    weights = w.given().reshape(groups, filters // groups, -1)
    for n in range(0, window.batch, images):
        block = _images(x, n, images)
        cols = _columns_on_card(block, _of_images(window, block.shape[0]), im2col, False).given().reshape(columns_shape)
        product = weights @ cols
        if b is not None:
            product += b.given().reshape(1, groups, filters // groups, 1)
        y.given().reshape(shape)[n : n + images] = product
    if data_format == "channels_last":
        y = y.transpose((0, 2, 3, 1))
    if room is None:
        return y.given()
    room.assign(y)
    return out


def _backward_on_card(dy, x, w, window, groups, data_format, im2col, col2im) -> Any:
    filters, first = w.shape[0], data_format == "channels_first"
    images, columns_shape, _ = _matrices(x, window, groups, filters)
    weights = w.given().reshape(groups, filters // groups, -1)
    dx, dw = x.empty((window.batch, window.channels, *window.size[1:]), x.dtype), weights * 0
    for n in range(0, window.batch, images):
        block, slopes = _images(x, n, images), _images(dy, n, images)
        part = _of_images(window, block.shape[0])
        slopes = (slopes if first else slopes.transpose((0, 3, 1, 2))).given().swapaxes(0, 1)
        slopes = slopes.reshape(groups, filters // groups, -1)
        cols = _columns_on_card(block, part, im2col, True).given().reshape(groups, columns_shape[2], -1)
        dw = dw + slopes @ cols.swapaxes(1, 2)
        dcols = x.kind.read(
            "dcols", (weights.swapaxes(1, 2) @ slopes).reshape(part.channels, part.volume, part.batch, -1)
        )
        into = _images(dx, n, images).reshape(-1, *window.size, 1)
        col2im(dcols.transpose((2, 0, 1, 3)), part, into)
    db = (dy if first else dy.transpose((0, 3, 1, 2))).given().sum((0, 2, 3))
    dx = dx if first else dx.transpose((0, 2, 3, 1))
    return dx.given(), dw.reshape(w.shape), db
