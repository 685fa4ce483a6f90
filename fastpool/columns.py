"""im2col and its adjoint col2im, in one, two or three spatial axes."""

from __future__ import annotations

from typing import Any

from fastpool.arguments import check_shape, frozen_window, one_of, required_stride
from fastpool.calls import call
from fastpool.column_plans import COL2IM, IM2COL, ORDERS
from fastpool.type_hints import A, Padding, Size


def im2col(
    x: A,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    order: str = "unfold",
    fill_value: Any = 0,
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Every window of an array as a column.

    Parameters
    ----------
    x : array of shape (N, C, *S), or channels_last (N, *S, C), with one to three spatial axes S
        Any dtype that `max_pool2d` takes. Where kernel_size is a tuple, the batch and the channels may be missing.
    kernel_size, stride, padding, dilation, data_format, backend
        As in `max_pool2d`, but stride defaults to 1.
    order : "unfold", "gemm", "columns", "rows", "rows_channels_last" or "windows"
        - "unfold": (N, C*KH*KW, L), as `torch.nn.functional.unfold`; L = OH*OW counts the windows
        - "gemm": (C*KH*KW, L*N), the position first and the image inside it, as deepnet and cs231n's `im2col_indices`
        - "columns": (C*KH*KW, N*L), the image first, as the columns of cs231n's `conv_forward_strided`
        - "rows": (N*L, C*KH*KW), as "Deep Learning from Scratch" and DeZero
        - "rows_channels_last": (N*L, KH*KW*C), as TensorFlow's `extract_patches` and tinynn
        - "windows": (N, C, KH, KW, OH, OW), as Chainer
    fill_value : number
        What stands in the padding. A Python float is rounded to the dtype of a floating `x`, as in NumPy's arithmetic;
        all else must be a value that the dtype of `x` holds: integers, NumPy's scalars, any number for integers.
    out : array of the shape and dtype of the result

    Returns
    -------
    array with the dtype of `x`, the same whatever the data_format

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d`; also for an unknown order and a fill_value that the dtype cannot hold.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.im2col(np.arange(9).reshape(1, 1, 3, 3), 2)[0]
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])
    """
    window = frozen_window(kernel_size, required_stride(stride), padding, dilation, False, data_format)
    static = window, one_of("order", order, ORDERS), out is None
    return call(IM2COL, (x,), static, out, backend, (fill_value,))


def col2im(
    cols: A,
    x_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    *,
    order: str = "unfold",
    data_format: str = "channels_first",
    out: A | None = None,
    backend: str | None = None,
) -> A:
    """Add columns up to where `im2col` took them from: its exact adjoint, as `torch.nn.functional.fold`.

    Parameters
    ----------
    cols : array of the shape that `im2col` gives for `x_shape`; any integer or floating dtype
    x_shape : tuple of int
        The shape of the array to make.
    kernel_size, stride, padding, dilation, order, data_format, backend
        As in `im2col`.
    out : array of `x_shape`

    Returns
    -------
    array of `x_shape`, with the dtype of `cols`
        float16 and bfloat16 are summed in float32 and rounded once; integers wrap around as NumPy's do.

    Raises
    ------
    TypeError, ValueError
        For bool, and for shapes and arguments that do not fit.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> fp.col2im(np.ones((1, 4, 4)), (1, 1, 3, 3), 2)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    window = frozen_window(kernel_size, required_stride(stride), padding, dilation, False, data_format)
    static = check_shape("x_shape", x_shape), window, one_of("order", order, ORDERS)
    return call(COL2IM, (cols,), static, out, backend)
