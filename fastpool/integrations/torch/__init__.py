"""Pooling, maxout and activations for PyTorch, on fastpool's kernels.

    from fastpool.integrations.torch import MaxPool2d, replace_max_pools

Each function is a custom operator of the library `fastpool`, with a fake kernel, a rule for `vmap` and gradients of any
order, so that `torch.compile` takes it whole. Tensors on the CPU are read where they lie, without a copy; those with
their channels last in memory give results with their channels last. Tensors on a GPU go to the backend "cuda".

The rules are fastpool's. They are PyTorch's but for these: padding may be any, not half a window at most; of several
NaN in a window the first wins, not the last; a window of padding alone gives the lowest value and takes no gradient;
bool and all integers pool too; and a gradient is the same bits on every run.

While a model is exported to ONNX, scripted, traced by `torch.jit.trace` or `torch.fx`, and on quantised tensors, the
functions call PyTorch's own operators instead, so that the exported model runs where fastpool is not installed. Where
PyTorch has no such padding that is an error.
"""

from fastpool.integrations.torch.activations import hard_swish, swish
from fastpool.integrations.torch.layers import (
    HardSwish,
    Maxout,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
    Swish,
)
from fastpool.integrations.torch.maxout import maxout
from fastpool.integrations.torch.pools import max_pool1d, max_pool2d, max_pool3d, min_pool1d, min_pool2d, min_pool3d
from fastpool.integrations.torch.replacement import replace_max_pool_calls, replace_max_pools, restore_max_pools
from fastpool.integrations.torch.unpooling import max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "HardSwish",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Maxout",
    "MinPool1d",
    "MinPool2d",
    "MinPool3d",
    "Swish",
    "hard_swish",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "maxout",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
    "replace_max_pool_calls",
    "replace_max_pools",
    "restore_max_pools",
    "swish",
]
