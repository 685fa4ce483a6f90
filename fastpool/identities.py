"""Pooling made of convolutions.

The average of a window is a convolution with equal weights. Since max(a, b) = relu(a - b) + b, a tree of these takes
the maximum of any number of values with subtractions, additions and relu alone: convolutions can do all of this, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.convolution import conv2d
from fastpool.type_hints import A, Padding
from fastpool.window import Window

__all__ = ["avg_pool2d_by_conv", "max_pool2d_by_conv", "relu_stages"]


def avg_pool2d_by_conv(
    x: A,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: Padding = 0,
    *,
    backend: str | None = None,
) -> A:
    """Average pooling of images as a convolution by `fastpool.conv2d`, whose weights are all 1 / (KH KW).

    Equal to `avg_pool2d` up to rounding: the weights are rounded, and so are the sums. The padding of a convolution is
    zeros, which count: it is that of `avg_pool2d` with count_include_pad=True, its default.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W); float16, bfloat16, float32 or float64
    kernel_size, stride, padding, backend
        As in `avg_pool2d`.

    Returns
    -------
    array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d`.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> from fastpool.identities import avg_pool2d_by_conv
    >>> x = np.array([[-7.0, 7, 0, -8, 8, -3], [-4, -5, -5, 0, -10, 7]])
    >>> avg_pool2d_by_conv(x, 2)
    array([[-2.25, -3.25,  0.5 ]])
    >>> fp.avg_pool2d(x, 2)
    array([[-2.25, -3.25,  0.5 ]])
    """
    images, window = _images(x, kernel_size, stride, padding)
    kernel = window.kernel[1:]
    weights = np.full((1, 1, *kernel), 1 / window.volume, images.dtype)
    y = conv2d(images, weights, None, kernel if stride is None else stride, padding, backend=backend)
    return arrays.to_library(y.reshape(window.y_shape), x)


def relu_stages(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The stages in which a tree of relu(a - b) + b takes the maximum of `count` values.

    Each stage reads features: first the values themselves, then, of the stage before, its differences after relu
    and behind them what it kept. After the last stage relu(difference) + kept is the maximum.

    Parameters
    ----------
    count : int
        How many values; 1 needs no stage.

    Returns
    -------
    list of (differences, kept)
        Two float64 matrices of -1, 0 and 1, whose columns are features: rows of `differences` are the a - b of
        pairs, rows of `kept` are their b, and the value left over where the number is odd.

    Examples
    --------
    >>> from fastpool.identities import relu_stages
    >>> first, second = relu_stages(4)
    >>> first[0]  # a - b and c - d
    array([[ 1., -1.,  0.,  0.],
           [ 0.,  0.,  1., -1.]])
    >>> second[0]  # relu(a - b) - relu(c - d) + b - d
    array([[ 1., -1.,  1., -1.]])
    >>> second[1]  # relu(c - d) + d
    array([[0., 1., 0., 1.]])
    """
    stages = []
    values = np.eye(count)
    while len(values) > 1:
        pairs = len(values) // 2
        a, b, left_over = values[0 : 2 * pairs : 2], values[1 : 2 * pairs : 2], values[2 * pairs :]
        kept = np.concatenate([b, left_over])
        stages.append((a - b, kept))
        values = np.concatenate([np.eye(len(kept), pairs), np.eye(len(kept))], axis=1)
    return stages


def max_pool2d_by_conv(
    x: A,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    *,
    backend: str | None = None,
) -> A:
    """Max pooling of images as a tree of relu(a - b) + b, every step a convolution by `fastpool.conv2d`.

    Equal to `max_pool2d` up to rounding: a difference of two numbers is rounded, and so is what is added to it, so the
    error is up to some units in the last place of the largest magnitude in a window. Integers held in floats come out
    exactly while their differences are exact. Far slower than `max_pool2d`; it shows that convolutions can pool.

    Parameters
    ----------
    x : array of shape (N, C, H, W), (C, H, W) or (H, W), finite; float16, bfloat16, float32 or float64
    kernel_size, stride, backend
        As in `max_pool2d`. There is no padding, whose zeros would win over negative values.

    Returns
    -------
    array of shape (N, C, OH, OW) and so on, of the array library and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d`, and for a dtype that is not floating.

    Examples
    --------
    >>> import fastpool as fp
    >>> import numpy as np
    >>> from fastpool.identities import max_pool2d_by_conv
    >>> x = np.array([[-7.0, 7, 0, -8, 8, -3], [-4, -5, -5, 0, -10, 7]])
    >>> max_pool2d_by_conv(x, 2)
    array([[7., 0., 8.]])
    >>> fp.max_pool2d(x, 2)
    array([[7., 0., 8.]])
    """
    features, window = _images(x, kernel_size, stride)
    kernel = window.kernel[1:]
    step = kernel if stride is None else stride
    for differences, kept in relu_stages(window.volume):
        filters = np.concatenate([differences, kept]).reshape(-1, features.shape[1], *kernel).astype(features.dtype)
        features = conv2d(features, filters, stride=step, backend=backend)
        pairs = features[:, : len(differences)]
        np.maximum(pairs, 0, out=pairs)
        kernel = step = (1, 1)
    total = np.ones((1, features.shape[1], 1, 1), features.dtype)
    y = conv2d(features, total, stride=step, backend=backend).reshape(window.y_shape)
    return arrays.to_library(y, x)


def _images(x: Any, kernel_size: Any, stride: Any, padding: Any = 0) -> tuple[np.ndarray, Window]:
    """Each channel of an array as an image of one channel, and the window."""
    read = arrays.in_main_memory("x", arrays.read("x", x, floats_only=True), "pooled by convolutions")
    window = Window.plan(2, read.shape, kernel_size, stride, padding)
    return read.reshape(-1, 1, *window.size[1:]), window
