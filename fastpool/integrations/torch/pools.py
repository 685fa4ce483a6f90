"""Max and min pooling as functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastpool.arguments import flag
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.operators import needs_gradient
from fastpool.integrations.torch.pool_operators import MAX, MIN, Pool, indices_of
from fastpool.integrations.torch.windows import Padding, Size, as_operators_take_it


def _pool(pool: Pool, axes: int, x: Tensor, kernel_size, stride, padding, dilation, ceil_mode, return_indices) -> Any:
    return_indices = flag("return_indices", return_indices)
    window = as_operators_take_it(axes, kernel_size, stride, padding, dilation, ceil_mode)
    if standard.takes_over(x):
        return pool.standard(axes, x, window, return_indices)
    if not return_indices and not needs_gradient(x):
        return pool.plain(x, *window)
    y, argmax = pool.with_argmax(x, *window)
    return (y, indices_of(argmax, x.shape, *window)) if return_indices else y


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over the length of signals (N, C, L) or (C, L), as `torch.nn.functional.max_pool1d`.

    As `max_pool2d` in every respect, with one spatial axis.
    """
    return _pool(MAX, 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over images, as `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    input : tensor of shape (N, C, H, W), (C, H, W) or (H, W), with its channels first or last in memory
    kernel_size, stride, dilation, ceil_mode
        As in `fastpool.max_pool2d`, which are PyTorch's.
    padding : int, one for each axis, or as `fastpool.max_pool2d` takes it besides
        A (before, after) pair for each axis, "valid", "same" or "same_lower".
    return_indices : bool
        Also return where each maximum was, as PyTorch counts: its position in the plane, in int64; -1 for a window
        of padding alone.

    Returns
    -------
    tensor of shape (N, C, OH, OW) and so on, with the dtype of `input`, or a pair of them with the indices

    Raises
    ------
    TypeError, ValueError
        As `fastpool.max_pool2d`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import max_pool2d
    >>> x = torch.tensor([[1.0, 9.0], [3.0, 4.0]], requires_grad=True)
    >>> y = max_pool2d(x, 2)
    >>> y.backward(torch.tensor([[5.0]]))
    >>> x.grad
    tensor([[0., 5.],
            [0., 0.]])
    """
    return _pool(MAX, 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max pooling over volumes (N, C, D, H, W), (C, D, H, W), as `torch.nn.functional.max_pool3d`.

    As `max_pool2d` in every respect, with three spatial axes.
    """
    return _pool(MAX, 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def min_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Min pooling over the length of signals (N, C, L) or (C, L): as `max_pool1d` in every respect, for the minimum."""
    return _pool(MIN, 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def min_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Min pooling over images: as `max_pool2d` in every respect, for the minimum.

    Padding never wins: a window of padding alone gives the highest value of the dtype. No negated copy is made.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import min_pool2d
    >>> x = torch.tensor([[1.0, 9.0], [3.0, 4.0]], requires_grad=True)
    >>> y = min_pool2d(x, 2)
    >>> y.backward(torch.tensor([[5.0]]))
    >>> x.grad
    tensor([[5., 0.],
            [0., 0.]])
    """
    return _pool(MIN, 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def min_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Min pooling over volumes (N, C, D, H, W), (C, D, H, W): as `max_pool3d` in every respect, for the minimum."""
    return _pool(MIN, 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
