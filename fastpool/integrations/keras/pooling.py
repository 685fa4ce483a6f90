"""Min pooling and adaptive pooling as layers of Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

import fastpool as fp
from fastpool.arguments import check_layout, for_each_axis, frozen, frozen_output_size, one_of, per_axis, positive
from fastpool.integrations.keras.stateless import StatelessLayer, runs_on_fastpool, serializable
from fastpool.window_tables import adaptive

# Backends, and for how many spatial axes their max pooling takes no integers.
POOLS_FLOATS_ALONE = {("tensorflow", 3), ("torch", 1)}


class _SpatialLayer(StatelessLayer):
    """A layer over the spatial axes of a batch; `axes` counts them."""

    axes: int

    def __init__(self, data_format: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = check_layout(data_format or keras.config.image_data_format())
        self.input_spec = keras.InputSpec(ndim=self.axes + 2)

    @property
    def _first_axis(self) -> int:
        return 1 if self.data_format == "channels_last" else 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


class _MinPooling(_SpatialLayer):
    def __init__(
        self,
        pool_size: int | tuple[int, ...] = 2,
        strides: int | tuple[int, ...] | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format, name=name, **kwargs)
        self.pool_size = per_axis("pool_size", frozen("pool_size", pool_size), self.axes, 1)
        strides = self.pool_size if strides is None else frozen("strides", strides)
        self.strides = per_axis("strides", strides, self.axes, 1)
        self.padding = one_of("padding", padding.lower() if isinstance(padding, str) else padding, ("valid", "same"))

    def call(self, inputs: Any) -> Any:
        if runs_on_fastpool(inputs):
            pool = (fp.min_pool1d, fp.min_pool2d, fp.min_pool3d)[self.axes - 1]
            return pool(inputs, self.pool_size, self.strides, self.padding, data_format=self.data_format)
        dtype, backend = keras.backend.standardize_dtype(inputs.dtype), keras.backend.backend()
        is_float = keras.backend.is_float_dtype(dtype)
        if (backend, self.axes) in POOLS_FLOATS_ALONE and not is_float:
            raise TypeError(f"{type(self).__name__} takes floats alone on {backend}, got {dtype}: cast its input")
        # Both reverse the order of all values of a dtype. Integers have no negative of their lowest value.
        reverse = ops.negative if is_float else ops.bitwise_not
        return reverse(self._max_pool(reverse(inputs)))

    def _max_pool(self, x: Any) -> Any:
        return ops.max_pool(x, self.pool_size, self.strides, self.padding, self.data_format)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return self._max_pool(keras.KerasTensor(input_shape)).shape

    def get_config(self) -> dict[str, Any]:
        mine = {"pool_size": self.pool_size, "padding": self.padding, "strides": self.strides}
        return {**super().get_config(), **mine}


@serializable
class MinPooling1D(_MinPooling):
    """Min pooling over the length of signals: as `MinPooling2D`, with one spatial axis.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import MinPooling1D
    >>> keras.Sequential([keras.Input((9, 3)), MinPooling1D(3)]).output_shape
    (None, 3, 3)
    """

    axes = 1


@serializable
class MinPooling2D(_MinPooling):
    """Min pooling over the height and width of images: `keras.layers.MaxPooling2D` for the minimum.

    It makes (N, OH, OW, C) of images (N, H, W, C), or (N, C, OH, OW) of (N, C, H, W) with channels_first. Inputs are
    floats or, from Keras 3.7 on, integers: not those of volumes on TensorFlow and of signals on PyTorch. Padding never
    wins. A NaN and the gradients of a tie are as in the max pooling of Keras' backend.

    Parameters
    ----------
    pool_size, strides : int or one int for each axis
        `strides` defaults to `pool_size`.
    padding : "valid" or "same"
    data_format : "channels_last" or "channels_first"
        Defaults to Keras' setting.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, an unknown padding or data_format, windows that do not fit, and
        integers that the backend does not pool.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import MinPooling2D
    >>> model = keras.Sequential([keras.Input((28, 28, 1)), MinPooling2D(3, strides=2, padding="same")])
    >>> model.output_shape
    (None, 14, 14, 1)
    """

    axes = 2


@serializable
class MinPooling3D(_MinPooling):
    """Min pooling over the depth, height and width of volumes: as `MinPooling2D`, with three spatial axes.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import MinPooling3D
    >>> keras.Sequential([keras.Input((8, 8, 8, 1)), MinPooling3D()]).output_shape
    (None, 4, 4, 4, 1)
    """

    axes = 3


class _AdaptivePooling(_SpatialLayer):
    functions: tuple[Any, ...]  # of fastpool, for one, two and three axes
    reduce: Any  # of keras.ops

    def __init__(self, output_size: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format, **kwargs)
        sizes = for_each_axis("output_size", frozen_output_size(output_size), self.axes)
        self.output_size = tuple(None if size is None else positive("output_size", size) for size in sizes)

    def call(self, inputs: Any) -> Any:
        if runs_on_fastpool(inputs):
            return self.functions[self.axes - 1](inputs, self.output_size, data_format=self.data_format)
        for axis, size in enumerate(self.output_size, self._first_axis):
            inputs = self._pooled_along(inputs, axis, size)
        return inputs

    def _pooled_along(self, x: Any, axis: int, out: int | None) -> Any:
        """A window is a product of one window of each axis, so that axes are pooled one by one."""
        size = x.shape[axis]
        if out in (None, size):
            return x
        if out == 1:
            return self.reduce(x, axis=axis, keepdims=True)
        if size is None:
            raise ValueError(
                f"{type(self).__name__} must know the size of axis {axis}, of which it makes {out} windows, "
                f"got an input of shape {tuple(x.shape)}: give keras.Input that size"
            )
        windows = adaptive(size, out)
        cells = windows.begin[:, None] + np.arange((windows.end - windows.begin).max())
        last = windows.end[:, None] - 1
        inside = cells <= last
        shape = ops.shape(x)
        if size % out:
            x = ops.take(x, np.minimum(cells, last).ravel(), axis=axis)
        x = ops.reshape(x, (*shape[:axis], *cells.shape, *shape[axis + 1 :]))
        return self._reduced_inside(x, axis + 1, inside)

    def _reduced_inside(self, x: Any, axis: int, inside: np.ndarray) -> Any:
        """Reduced along an axis; what is not inside repeats the last cell of its window."""
        return self.reduce(x, axis=axis)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        first = self._first_axis
        space = input_shape[first : first + self.axes]
        pooled = [size if out is None else out for size, out in zip(space, self.output_size, strict=True)]
        return (*input_shape[:first], *pooled, *input_shape[first + self.axes :])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output_size": self.output_size}


class _AdaptiveMaxPooling(_AdaptivePooling):
    functions = (fp.adaptive_max_pool1d, fp.adaptive_max_pool2d, fp.adaptive_max_pool3d)
    reduce = staticmethod(ops.max)


class _AdaptiveAveragePooling(_AdaptivePooling):
    functions = (fp.adaptive_avg_pool1d, fp.adaptive_avg_pool2d, fp.adaptive_avg_pool3d)
    reduce = staticmethod(ops.mean)

    def _reduced_inside(self, x: Any, axis: int, inside: np.ndarray) -> Any:
        if inside.all():
            return self.reduce(x, axis=axis)
        along = (1,) * (len(x.shape) - axis - 1)
        total = ops.sum(ops.where(inside.reshape(*inside.shape, *along), x, ops.zeros_like(x)), axis=axis)
        return total / ops.convert_to_tensor(inside.sum(1).reshape(-1, *along), x.dtype)


@serializable
class AdaptiveMaxPooling1D(_AdaptiveMaxPooling):
    """Adaptive max pooling over the length of signals: as `AdaptiveMaxPooling2D`, with one spatial axis.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveMaxPooling1D
    >>> keras.Sequential([keras.Input((20, 3)), AdaptiveMaxPooling1D(6)]).output_shape
    (None, 6, 3)
    """

    axes = 1


@serializable
class AdaptiveMaxPooling2D(_AdaptiveMaxPooling):
    """Adaptive max pooling over the height and width of images, with the windows of PyTorch and of Keras 3.13.

    It makes (N, OH, OW, C) of images (N, H, W, C), or (N, C, OH, OW) of (N, C, H, W) with channels_first. In graphs of
    TensorFlow H and W must be known, unless their output is of one cell or of the same size.

    It differs from `keras.layers.AdaptiveMaxPooling2D` in three points: Keras versions before 3.13 run it, too; an axis
    may keep its size; and it takes outputs of one cell on TensorFlow and outputs as large as the input on JAX, where
    Keras 3.15 ends the process or gives NaN.

    Parameters
    ----------
    output_size : int, or one int or None for each axis
        None keeps the size of the input.
    data_format : "channels_last" or "channels_first"
        Defaults to Keras' setting.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, an unknown data_format, and axes of unknown size.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveMaxPooling2D
    >>> keras.Sequential([keras.Input((28, 20, 1)), AdaptiveMaxPooling2D((7, None))]).output_shape
    (None, 7, 20, 1)
    """

    axes = 2


@serializable
class AdaptiveMaxPooling3D(_AdaptiveMaxPooling):
    """Adaptive max pooling over the depth, height and width of volumes: as `AdaptiveMaxPooling2D`.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveMaxPooling3D
    >>> keras.Sequential([keras.Input((9, 8, 7, 1)), AdaptiveMaxPooling3D(2)]).output_shape
    (None, 2, 2, 2, 1)
    """

    axes = 3


@serializable
class AdaptiveAveragePooling1D(_AdaptiveAveragePooling):
    """Adaptive average pooling over the length of signals: as `AdaptiveAveragePooling2D`, with one spatial axis.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveAveragePooling1D
    >>> keras.Sequential([keras.Input((20, 3)), AdaptiveAveragePooling1D(6)]).output_shape
    (None, 6, 3)
    """

    axes = 1


@serializable
class AdaptiveAveragePooling2D(_AdaptiveAveragePooling):
    """Adaptive average pooling over the height and width of images: as `AdaptiveMaxPooling2D`, for averages of floats.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveAveragePooling2D
    >>> keras.Sequential([keras.Input((28, 28, 3)), AdaptiveAveragePooling2D(1)]).output_shape
    (None, 1, 1, 3)
    """

    axes = 2


@serializable
class AdaptiveAveragePooling3D(_AdaptiveAveragePooling):
    """Adaptive average pooling over the depth, height and width of volumes: as `AdaptiveAveragePooling2D`.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import AdaptiveAveragePooling3D
    >>> keras.Sequential([keras.Input((9, 8, 7, 1)), AdaptiveAveragePooling3D(2)]).output_shape
    (None, 2, 2, 2, 1)
    """

    axes = 3
