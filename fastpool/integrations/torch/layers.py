"""The functions as modules, with the arguments, attributes, state and repr of PyTorch's own where it has them.

`torch.jit.script` compiles what `forward` returns in scripts, which calls PyTorch's own operator: see `standard.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastpool.arguments import finite
from fastpool.integrations.torch import standard
from fastpool.integrations.torch.activations import hard_swish, swish
from fastpool.integrations.torch.maxout import maxout
from fastpool.integrations.torch.pools import max_pool1d, max_pool2d, max_pool3d, min_pool1d, min_pool2d, min_pool3d
from fastpool.integrations.torch.unpooling import max_unpool1d, max_unpool2d, max_unpool3d
from fastpool.integrations.torch.windows import Padding, Size, as_operators_take_it
from fastpool.maxout import check_grouping

F = nn.functional


class _Window(nn.Module):
    """What modules with a window add to PyTorch's: the padding of its own operators, as a constant of TorchScript."""

    _axes: int
    __constants__: tuple[str, ...] = ("kernel_size", "stride", "standard_padding")
    __jit_unused_properties__ = ("standard_padding",)

    @property
    def standard_padding(self) -> tuple[int, ...]:
        """The padding as PyTorch's own operators take it; a ValueError where they have none that is the same."""
        dilation = getattr(self, "dilation", 1)
        window = as_operators_take_it(self._axes, self.kernel_size, self.stride, self.padding, dilation, False)
        return standard.padding_of(*window[:5])


class _Pool(_Window):
    __constants__ = (*_Window.__constants__, "dilation", "ceil_mode", "return_indices")


class MaxPool1d(_Pool, nn.MaxPool1d):
    """`torch.nn.MaxPool1d` on fastpool: the same arguments, state and repr."""

    _axes = 1

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return max_pool1d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        return F.max_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.standard_padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class MaxPool2d(_Pool, nn.MaxPool2d):
    """`torch.nn.MaxPool2d` on fastpool: the same arguments, state and repr.

    Padding may also be what `max_pool2d` takes besides integers. It must be PyTorch's where the module is exported.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import MaxPool2d
    >>> MaxPool2d(3, stride=2, padding=1)
    MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False)
    >>> MaxPool2d(2)(torch.arange(16.0).reshape(1, 4, 4))
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """

    _axes = 2

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return max_pool2d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        return F.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.standard_padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class MaxPool3d(_Pool, nn.MaxPool3d):
    """`torch.nn.MaxPool3d` on fastpool: the same arguments, state and repr."""

    _axes = 3

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return max_pool3d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        return F.max_pool3d(
            input,
            self.kernel_size,
            self.stride,
            self.standard_padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class _MinPool(_Pool):
    return_indices: bool
    ceil_mode: bool

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def extra_repr(self) -> str:
        names = "kernel_size", "stride", "padding", "dilation", "ceil_mode"
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class MinPool1d(_MinPool):
    """Min pooling, with the arguments of `torch.nn.MaxPool1d`."""

    _axes = 1

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return min_pool1d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        standard.check_floating(input)
        if self.return_indices:
            y, indices = F.max_pool1d(
                -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, True
            )
            return -y, indices
        return -F.max_pool1d(
            -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, False
        )


class MinPool2d(_MinPool):
    """Min pooling, with the arguments of `torch.nn.MaxPool2d`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import MinPool2d
    >>> MinPool2d(2)
    MinPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    >>> MinPool2d(2)(torch.arange(16.0).reshape(1, 4, 4))
    tensor([[[ 0.,  2.],
             [ 8., 10.]]])
    """

    _axes = 2

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return min_pool2d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        standard.check_floating(input)
        if self.return_indices:
            y, indices = F.max_pool2d(
                -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, True
            )
            return -y, indices
        return -F.max_pool2d(
            -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, False
        )


class MinPool3d(_MinPool):
    """Min pooling, with the arguments of `torch.nn.MaxPool3d`."""

    _axes = 3

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return min_pool3d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
            )
        standard.check_floating(input)
        if self.return_indices:
            y, indices = F.max_pool3d(
                -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, True
            )
            return -y, indices
        return -F.max_pool3d(
            -input, self.kernel_size, self.stride, self.standard_padding, self.dilation, self.ceil_mode, False
        )


class _MaxUnpool(_Window):
    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Padding = 0) -> None:
        super().__init__(kernel_size, stride, 0 if isinstance(padding, str) else padding)
        if isinstance(padding, str):  # which PyTorch's module would take for a sequence
            self.padding = padding


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d):
    """`torch.nn.MaxUnpool1d` on fastpool: the same arguments, state and repr."""

    _axes = 1

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            return max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.standard_padding, output_size)


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d):
    """`torch.nn.MaxUnpool2d` on fastpool: the same arguments, state and repr.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import MaxPool2d, MaxUnpool2d
    >>> y, indices = MaxPool2d(2, return_indices=True)(torch.arange(16.0).reshape(1, 4, 4))
    >>> MaxUnpool2d(2)(y, indices)
    tensor([[[ 0.,  0.,  0.,  0.],
             [ 0.,  5.,  0.,  7.],
             [ 0.,  0.,  0.,  0.],
             [ 0., 13.,  0., 15.]]])
    """

    _axes = 2

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.standard_padding, output_size)


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d):
    """`torch.nn.MaxUnpool3d` on fastpool: the same arguments, state and repr."""

    _axes = 3

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            return max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.standard_padding, output_size)


class Maxout(nn.Module):
    """Maxout as a layer (Goodfellow et al. 2013), along the channels of images (N, C, H, W) by default.

    Parameters
    ----------
    num_units : int
        The channels that come out; those that come in must be a multiple.
    axis : int
    grouping : "strided" or "contiguous"
        As in `fastpool.maxout`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import Maxout
    >>> layer = Maxout(32)
    >>> layer
    Maxout(num_units=32, axis=1, grouping='strided')
    >>> layer(torch.zeros(8, 64, 28, 28)).shape
    torch.Size([8, 32, 28, 28])
    """

    def __init__(self, num_units: int, axis: int = 1, grouping: str = "strided") -> None:
        super().__init__()
        self.num_units, self.axis, self.grouping = num_units, axis, check_grouping(grouping)

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return maxout(input, self.num_units, self.axis, self.grouping)
        return standard.maxout(input, self.num_units, self.axis, self.grouping)

    def extra_repr(self) -> str:
        return f"num_units={self.num_units}, axis={self.axis}, grouping={self.grouping!r}"


class HardSwish(nn.Module):
    """`hard_swish` as a module; PyTorch's own is `torch.nn.Hardswish`.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import HardSwish
    >>> HardSwish()(torch.tensor([-4.0, 1.5, 4.0]))
    tensor([0.0000, 1.1250, 4.0000])
    """

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return hard_swish(input)
        return standard.hard_swish(input)


class Swish(nn.Module):
    """`swish` as a module, with a constant beta.

    Examples
    --------
    >>> import torch
    >>> from fastpool.integrations.torch import Swish
    >>> Swish(beta=2.0)
    Swish(beta=2.0)
    >>> Swish()(torch.tensor([0.0, 100.0]))
    tensor([  0., 100.])
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = finite("beta", beta)

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return swish(input, self.beta)
        return standard.swish(input, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"
