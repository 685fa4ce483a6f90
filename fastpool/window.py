"""The geometry of one call: where every window lies, and what shape comes out.

The shape of an input, or of what is to be unpooled, is compared with the window here; that of columns in `columns.py`,
of a gradient of maxout in `maxout.py`. Windows are immutable and cached by their arguments.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool._rules import counted_cells
from fastpool.arguments import LARGEST_SIZE, check_layout, check_padding_word, frozen_window, pad_pairs, per_axis

# Maxout is pooled down rows if its pieces have so many contiguous elements or more, else along one row.
LEAST_ROW = 32


def _same_pairs(
    padding: str, size: Sequence[int], extent: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Padding that gives ceil(size / stride) windows; the odd cell goes to the end, or the start for same_lower."""
    pairs = []
    for n, e, s in zip(size, extent, stride, strict=True):
        total = max((-(-n // s) - 1) * s + e - n, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if padding == "same" else (large, small))
    return tuple(pairs)


def _output_size(name: str, n: int, pad: tuple[int, int], extent: int, stride: int, ceil_mode: bool) -> int:
    before, after = pad
    if n + before + after > LARGEST_SIZE:
        raise ValueError(f"padding {pad} is too large for an axis of {n}: their sum overflows")
    if extent > LARGEST_SIZE:
        raise ValueError(f"{name}: a window of {extent} cells overflows; use a smaller kernel_size or dilation")
    slack = n + before + after - extent
    out = (slack + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode:  # the last window must start inside the input or its leading padding
        out = min(out, (n + before - 1) // stride + 1)
    if out < 1:
        raise ValueError(
            f"{name}: a window of {extent} cells does not fit into an axis of {n} with padding {pad}; "
            "use a smaller kernel_size or dilation, or more padding"
        )
    return out


def spatial_axes(x_shape: tuple[int, ...], kernel_size: Any) -> int:
    """How many axes a window has: as many as kernel_size names, else all but batch and channels."""
    axes = len(kernel_size) if isinstance(kernel_size, (Sequence, np.ndarray)) else len(x_shape) - 2
    if not 1 <= axes <= 3:
        raise ValueError(
            f"an array of shape {x_shape} with kernel_size {kernel_size!r} has {axes} spatial axes, not 1 to 3; "
            "give batch and channels, or kernel_size as a tuple"
        )
    return axes


def offset_dtype(volume: int) -> np.dtype | None:
    """The smallest of uint8, uint16 and uint32 that holds every offset inside a window of so many cells; else None."""
    return next((np.dtype(t) for t in (np.uint8, np.uint16, np.uint32) if volume - 1 <= np.iinfo(t).max), None)


def along(values: np.ndarray, axis: int) -> np.ndarray:
    """One value for each window along an axis, shaped to meet (..., OD, OH, OW)."""
    return values.reshape([-1 if axis == i else 1 for i in range(3)])


class _Geometry(NamedTuple):
    batch: int
    channels: int
    size: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    before: tuple[int, int, int]
    dilation: tuple[int, int, int]
    out: tuple[int, int, int]
    after: tuple[int, int, int]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    spatial_axes: int
    channel_axis: int | None


class Divisors:
    """What the sums of windows are divided by: how many of their cells count, or the same for all windows.

    Along each axis, the cells from coordinate `begin` up to `end` count, which the padding may be a part of. `override`
    is 0 where cells are counted.
    """

    __slots__ = ("begin", "end", "override")

    def __init__(self, begin: tuple[int, int, int], end: tuple[int, int, int], override: int) -> None:
        self.begin, self.end, self.override = begin, end, override

    def along(self, axis: int, window: "Window") -> np.ndarray:
        """How many cells of each window along one axis count."""
        starts = range(
            -window.before[axis], window.out[axis] * window.stride[axis] - window.before[axis], window.stride[axis]
        )
        kernel, begin, end = window.kernel[axis], self.begin[axis], self.end[axis]
        return np.array([counted_cells(start, kernel, begin, end) for start in starts])


class Window(_Geometry):
    """All windows of one call, in canonical form: three spatial axes, those not in use of size 1.

    `size`, `kernel`, `stride`, `before` (leading padding), `dilation`, `out` and `after` (trailing padding) hold one
    integer for each of depth, height and width. `x_shape` and `y_shape` are the shapes that the caller sees.
    """

    @staticmethod
    def plan(
        axes: int,
        x_shape: tuple[int, ...],
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        data_format: str = "channels_first",
    ) -> "Window":
        """Windows that slide over the last `axes` spatial axes of an array of `x_shape`."""
        arguments = frozen_window(kernel_size, stride, padding, dilation, ceil_mode, data_format)
        return sliding_window(axes, x_shape, *arguments)

    @staticmethod
    def maxout(x_shape: tuple[int, ...], num_units: int, axis: int, grouping: str) -> "Window":
        """Maxout as pooling along one axis of a contiguous array: the pieces of a unit are its window."""
        return _grouped(x_shape, num_units, axis, grouping)

    def of_rows(self, images: int, start: int, stop: int) -> "Window | None":
        """The windows of some output rows, over the input rows that they cover; None if they cover padding alone.

        The channels come first, whatever the data_format of these windows.
        """
        return _of_rows(self, images, start, stop)

    def shape_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the caller's array with other spatial sizes."""
        return _user_shape(self.x_shape, size, self.channel_axis)

    def covered_rows(self, start: int, stop: int) -> tuple[int, int]:
        """The first input row that the windows of some output rows cover, and one past the last."""
        first = start * self.stride[1] - self.before[1]
        end = (stop - 1) * self.stride[1] - self.before[1] + (self.kernel[1] - 1) * self.dilation[1] + 1
        top = max(first, 0)
        return top, max(min(end, self.size[1]), top)

    @cached_property
    def volume(self) -> int:
        """Cells in one window."""
        return prod(self.kernel)

    @cached_property
    def positions(self) -> int:
        """Windows in one plane."""
        return prod(self.out)

    def argmax_stride(self, axis: int) -> int:
        """Cells of the window in one step along an axis: the stride of that axis in an argmax."""
        return prod(self.kernel[axis + 1 :])

    @cached_property
    def argmax_dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and uint32 that holds every offset inside a window."""
        dtype = offset_dtype(self.volume)
        if dtype is None:
            raise ValueError(
                f"kernel_size {self.kernel} holds {self.volume} cells, more than an argmax in uint32 can name"
            )
        return dtype

    @cached_property
    def geometry(self) -> tuple[int, ...]:
        """size, kernel, stride, before, dilation, out in one tuple, for compiled kernels."""
        return self.size + self.kernel + self.stride + self.before + self.dilation + self.out

    def taps(self, axis: int) -> np.ndarray:
        """Input coordinate of each tap of each window along one axis, (out, kernel); padding lies outside the input."""
        starts = np.arange(self.out[axis]) * self.stride[axis] - self.before[axis]
        return starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]

    def divisors(self, count_include_pad: bool, divisor_override: int | None) -> Divisors:
        """What `avg_pool` divides the sums of these windows by."""
        begin, end = (0, 0, 0), self.size
        if count_include_pad:
            begin = tuple(-b for b in self.before)  # type: ignore[assignment]
            end = tuple(n + a for n, a in zip(self.size, self.after, strict=True))  # type: ignore[assignment]
        return Divisors(begin, end, divisor_override or 0)

    @cached_property
    def any_leaves_input(self) -> tuple[bool, bool, bool]:
        """Whether any tap along each axis lies in the padding."""
        ends = (
            (o - 1) * s - b + (k - 1) * d >= n
            for o, s, b, k, d, n in zip(
                self.out, self.stride, self.before, self.kernel, self.dilation, self.size, strict=True
            )
        )
        return tuple(b > 0 or end for b, end in zip(self.before, ends, strict=True))  # type: ignore[return-value]

    @cached_property
    def nonoverlapping(self) -> bool:
        """Whether no two windows share a cell nor have one between them, and none leaves the input.

        A rest of cells may follow the last window of an axis.
        """
        axes = zip(self.size, self.out, self.kernel, self.stride, self.before, self.dilation, strict=True)
        return all(n >= o * k and b == 0 and (s == k or o == 1) and (d == 1 or k == 1) for n, o, k, s, b, d in axes)

    @property
    def all_windows(self) -> tuple[slice, slice, slice]:
        """All windows of a plane, by axis."""
        return tuple(slice(0, n) for n in self.out)  # type: ignore[return-value]

    def padded_windows(self, axis: int) -> tuple[slice, slice]:
        """The first windows along an axis, and the last, that have a tap in the padding, without overlap."""
        n, s, before, out = self.size[axis], self.stride[axis], self.before[axis], self.out[axis]
        first = min(-(-before // s), out)
        last = -(-(n + before - (self.kernel[axis] - 1) * self.dilation[axis]) // s)
        return slice(0, first), slice(min(max(last, first), out), out)

    def real_taps(self, axis: int, windows: slice) -> tuple[np.ndarray, np.ndarray]:
        """The first tap that is a cell, and one past the last, of some windows along an axis.

        Of a window of padding alone, there is none: the first is not below the end.
        """
        starts = np.arange(windows.start, windows.stop) * self.stride[axis] - self.before[axis]
        step, last = self.dilation[axis], self.size[axis] - 1
        return np.maximum(-(starts // step), 0), np.minimum((last - starts) // step + 1, self.kernel[axis])

    def first_cells(self, d: slice, h: slice, w: slice) -> np.ndarray:
        """Offset of the first tap on a real cell of some windows, (d, h, w), and 0 for windows of padding alone."""
        offsets: Any = 0
        for axis, windows in enumerate((d, h, w)):
            first, _ = self.real_taps(axis, windows)
            offsets = offsets * self.kernel[axis] + along(first, axis)
        return np.where(self.padding_alone(d, h, w), 0, offsets)

    def padding_alone(self, d: slice, h: slice, w: slice) -> np.ndarray:
        """Which of some windows, (d, h, w), hold no cell of the input."""
        alone: Any = False
        for axis, windows in enumerate((d, h, w)):
            first, end = self.real_taps(axis, windows)
            alone = alone | along(first >= end, axis)
        return alone


def uncached_window(
    axes: int,
    x_shape: tuple[int, ...],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    data_format: str,
    shape_of: str = "x",
) -> Window:
    """As `Window.plan`, of arguments that `frozen_window` returned; the sizes may be symbols of torch.compile.

    `shape_of` is what messages call the argument that has this shape, or is it.
    """
    kernel = per_axis("kernel_size", kernel_size, axes, 1)
    stride = kernel if stride is None else per_axis("stride", stride, axes, 1)
    dilation = per_axis("dilation", dilation, axes, 1)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    batch, channels, size, channel_axis = _read_shape(shape_of, axes, x_shape, check_layout(data_format))

    if isinstance(padding, str):
        check_padding_word(padding)
        pads = ((0, 0),) * axes if padding == "valid" else _same_pairs(padding, size, extent, stride)
        ceil_mode = ceil_mode and padding == "valid"
    else:
        pads = pad_pairs(padding, axes)
    out = tuple(
        _output_size("kernel_size", n, p, e, s, ceil_mode)
        for n, p, e, s in zip(size, pads, extent, stride, strict=True)
    )
    if prod(out) * max(prod(kernel), 1) * max(batch, 1) * max(channels, 1) > LARGEST_SIZE:
        raise ValueError(f"kernel_size {kernel_size!r} with padding {padding!r} overflows: the windows are too many")
    for axis, (reach, k) in enumerate(zip(extent, kernel, strict=True)):
        # Kernels add up to four such distances, also those of taps that are padding.
        if k > 1 and 4 * reach * prod(size[axis + 1 :]) * max(channels, 1) > LARGEST_SIZE:
            raise ValueError(f"dilation {dilation!r} overflows: taps are further apart than any array is long")

    return _window(batch, channels, size, kernel, stride, pads, dilation, out, x_shape, channel_axis)


sliding_window = lru_cache(maxsize=1024, typed=True)(uncached_window)


def global_window(x_shape: tuple[int, ...], data_format: str, shape_of: str = "x") -> Window:
    """The one window that covers all spatial axes of a batch. Messages call the array, or its shape, `shape_of`."""
    data_format = check_layout(data_format)
    if not 3 <= len(x_shape) <= 5:
        raise ValueError(
            f"{shape_of} must have a batch, a channel and one to three spatial axes, as (N, C, H, W), "
            f"got shape {x_shape}"
        )
    space = x_shape[2:] if data_format == "channels_first" else x_shape[1:-1]
    if min(space) < 1:
        raise ValueError(f"each spatial axis of {shape_of} must hold at least one cell, got shape {x_shape}")
    return Window.plan(len(space), x_shape, space, None, 0, 1, False, data_format)


@lru_cache(maxsize=1024, typed=True)
def unpooling_window(
    axes: int,
    y_shape: tuple[int, ...],
    output_shape: tuple[int, ...] | None,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    data_format: str,
    y_name: str = "y",
    shape_name: str = "output_shape",
) -> Window:
    """The windows that max_unpool inverts, in an array of `output_shape` (all axes, or the spatial ones).

    `kernel_size`, `stride` and `padding` are as `frozen` returns them. Messages call the shapes by the two names.
    """
    kernel = per_axis("kernel_size", kernel_size, axes, 1)
    stride = kernel if stride is None else per_axis("stride", stride, axes, 1)
    if isinstance(padding, str) and padding != "valid":
        check_padding_word(padding)
        if output_shape is None:
            raise ValueError(f"output_shape must be given with padding {padding!r}, which fits several shapes")
        padding = "valid"
    pads = ((0, 0),) * axes if padding == "valid" else pad_pairs(padding, axes)
    batch, channels, out, channel_axis = _read_shape(y_name, axes, y_shape, data_format)
    if output_shape is None:
        size = tuple((o - 1) * s + k - sum(p) for o, s, k, p in zip(out, stride, kernel, pads, strict=True))
    elif len(output_shape) == axes:
        size = output_shape
    elif len(output_shape) == len(y_shape):
        b, c, size, _ = _read_shape(shape_name, axes, output_shape, data_format)
        if (b, c) != (batch, channels):
            raise ValueError(
                f"{shape_name} must keep the batch and the channels of {y_name} {y_shape}, got {output_shape}"
            )
    else:
        raise ValueError(
            f"{shape_name} must have {axes} spatial axes, or all {len(y_shape)} of {y_name}, got {output_shape}"
        )
    if output_shape is None and min(size) < 1:
        raise ValueError(f"padding must leave cells of {out} windows of {kernel} with stride {stride}, got {padding}")
    if min(size) < 1:
        raise ValueError(f"{shape_name} must be positive in every spatial axis, got {size}")
    if prod(size) > LARGEST_SIZE:
        raise ValueError(f"{shape_name} is too large for any array, got {size}")
    if max((o - 1) * s + k for o, s, k in zip(out, stride, kernel, strict=True)) > LARGEST_SIZE:
        raise ValueError(f"stride {stride} is too large for {out} windows of {kernel}: where they lie overflows")
    x_shape = _user_shape(y_shape, size, channel_axis)
    return _window(batch, channels, size, kernel, stride, pads, (1,) * axes, out, x_shape, channel_axis)


def _read_shape(
    name: str, axes: int, shape: tuple[int, ...], data_format: str
) -> tuple[int, int, tuple[int, ...], int | None]:
    """Batch, channels, spatial sizes and the channel axis of an array with `axes` spatial axes."""
    missing = axes + 2 - len(shape)
    if not 0 <= missing <= 2:
        raise ValueError(
            f"{name} must have {axes} to {axes + 2} axes (space alone; with channels; with batch and channels), "
            f"got shape {shape}"
        )
    last = data_format == "channels_last"
    channel_axis = None if missing == 2 else len(shape) - 1 if last else 1 - missing
    size = shape[-axes - 1 : -1] if last and channel_axis is not None else shape[-axes:]
    if min(size) < 1:
        raise ValueError(f"each spatial axis of {name} must hold at least one cell, got shape {shape}")
    return (shape[0] if missing == 0 else 1), (1 if channel_axis is None else shape[channel_axis]), size, channel_axis


def _user_shape(like: tuple[int, ...], size: tuple[int, ...], channel_axis: int | None) -> tuple[int, ...]:
    """The shape `like` with other spatial sizes."""
    space = iter(size)
    kept = {channel_axis, 0 if len(like) == len(size) + 2 else channel_axis}
    return tuple(n if axis in kept else next(space) for axis, n in enumerate(like))


def _window(batch, channels, size, kernel, stride, pads, dilation, out, x_shape, channel_axis) -> Window:
    """Geometry of one to three spatial axes, filled up to three."""
    axes = len(size)
    # The stride of a single window and the dilation of a single tap mean nothing: 1 saves kernels a special case.
    stride = tuple(1 if o == 1 else s for s, o in zip(stride, out, strict=True))
    dilation = tuple(1 if k == 1 else d for d, k in zip(dilation, kernel, strict=True))
    ones, zeros = (1,) * (3 - axes), (0,) * (3 - axes)
    return Window(
        batch=batch,
        channels=channels,
        size=ones + size,
        kernel=ones + kernel,
        stride=ones + stride,
        before=zeros + tuple(p[0] for p in pads),
        dilation=ones + dilation,
        out=ones + out,
        after=zeros + tuple(p[1] for p in pads),
        x_shape=x_shape,
        y_shape=_user_shape(x_shape, out, channel_axis),
        spatial_axes=axes,
        channel_axis=channel_axis,
    )


@lru_cache(maxsize=1024)
def _of_rows(whole: Window, images: int, start: int, stop: int) -> "Window | None":
    top, bottom = whole.covered_rows(start, stop)
    if top == bottom:
        return None
    # Not by `Window.plan`, which would add windows over cells that the whole leaves over.
    above = top - start * whole.stride[1] + whole.before[1]
    below = max(
        (stop - 1) * whole.stride[1] - whole.before[1] + (whole.kernel[1] - 1) * whole.dilation[1] + 1 - bottom, 0
    )
    pads = (above, below), (whole.before[2], whole.after[2])
    size, out = (bottom - top, whole.size[2]), (stop - start, whole.out[2])
    shape = (images, whole.channels, *size)
    kernel, stride, dilation = whole.kernel[1:], whole.stride[1:], whole.dilation[1:]
    return _window(images, whole.channels, size, kernel, stride, pads, dilation, out, shape, 1)


@lru_cache(maxsize=1024)
def _grouped(x_shape: tuple[int, ...], num_units: int, axis: int, grouping: str) -> Window:
    pieces = x_shape[axis] // num_units
    outer, inner = prod(x_shape[:axis]), prod(x_shape[axis + 1 :])
    # A contiguous array is (outer, pieces, inner) in both groupings; they differ in where the units belong.
    outer, inner = (outer * num_units, inner) if grouping == "contiguous" else (outer, num_units * inner)
    # Long runs of inner are rows, pooled along the height; short ones are cells, pooled along one long row.
    high = inner >= LEAST_ROW or outer == 0
    size, kernel, out = (1, pieces, inner), (1, pieces, 1), (1, 1, inner)
    if not high:
        size, kernel, out = (1, 1, outer * pieces), (1, 1, pieces), (1, 1, outer)
    return Window(
        batch=outer if high else 1,
        channels=1 if high else inner,
        size=size,
        kernel=kernel,
        stride=kernel,
        before=(0, 0, 0),
        dilation=(1, 1, 1),
        out=out,
        after=(0, 0, 0),
        x_shape=x_shape,
        y_shape=(*x_shape[:axis], num_units, *x_shape[axis + 1 :]),
        spatial_axes=3,
        channel_axis=None,
    )
