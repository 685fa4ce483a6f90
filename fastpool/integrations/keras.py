"""Layers for Keras 3: maxout, hard-swish, and max pooling made of convolutions.

    from fastpool.integrations.keras import HardSwish, Maxout, hard_swish

They run on every backend of Keras, train in `fit`, and are saved and loaded with a model. On the NumPy backend, which
only infers, fastpool's kernels do the work; `use_in_numpy_backend` makes Keras' own pooling layers there use them too.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
from keras import ops

import fastpool as fp
from fastpool.arguments import integer, positive
from fastpool.identities import relu_stages

__all__ = ["HardSwish", "Maxout", "hard_swish", "max_pool_by_conv", "use_in_numpy_backend"]

_serializable = keras.saving.register_keras_serializable(package="fastpool")


def _for_fastpool(x: Any) -> bool:
    return keras.backend.backend() == "numpy" and isinstance(x, np.ndarray)


@_serializable
class Maxout(keras.layers.Layer):
    """Maxout (Goodfellow et al. 2013): of the features along one axis, num_units maxima come out.

    The groups are those of TensorFlow Addons' layer of the same name: unit u takes the features u, u + num_units, and
    so on. Where several pieces of a unit are equal, the gradient goes where the backend of Keras sends it. A mask is
    passed on, unless `axis` is one of its axes: of the pieces of a unit some may be masked and others not.

    Parameters
    ----------
    num_units : int
        The features that come out; those that come in must be a multiple.
    axis : int
        -1, or 1 where the channels come first.
    grouping : "strided" or "contiguous"
        As in `fastpool.maxout`.

    Raises
    ------
    ValueError
        If the number of features is not a multiple of num_units.

    Examples
    --------
    A convolution of 64 filters, of which 16 maxima of four go on:

    >>> import keras
    >>> from fastpool.integrations.keras import Maxout
    >>> model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(64, 3), Maxout(16)])
    >>> model.output_shape
    (None, 26, 26, 16)
    """

    def __init__(self, num_units: int, axis: int = -1, grouping: str = "strided", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if grouping not in ("strided", "contiguous"):
            raise ValueError(f"grouping must be 'strided' or 'contiguous', got {grouping!r}")
        self.num_units, self.axis = positive("num_units", num_units), integer("axis", axis)
        self.grouping = grouping
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        if previous_mask is None or self._axis_of(inputs.shape) >= len(previous_mask.shape):
            return previous_mask
        shape = tuple(previous_mask.shape)
        warnings.warn(
            f"Maxout over axis {self.axis} drops the mask of shape {shape}, which has that axis", stacklevel=2
        )
        return None

    def call(self, inputs: Any) -> Any:
        if _for_fastpool(inputs):
            return fp.maxout(inputs, self.num_units, self.axis, grouping=self.grouping)
        axis = self._axis_of(inputs.shape)
        shape = ops.shape(inputs)  # with the backend's scalars where a size is known only at run time
        pieces = shape[axis] // self.num_units
        strided = self.grouping == "strided"
        group = (pieces, self.num_units) if strided else (self.num_units, pieces)
        grouped = ops.reshape(inputs, (*shape[:axis], *group, *shape[axis + 1 :]))
        return ops.max(grouped, axis=axis if strided else axis + 1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        axis = self._axis_of(input_shape)
        return (*input_shape[:axis], self.num_units, *input_shape[axis + 1 :])

    def _axis_of(self, shape: Any) -> int:
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"axis must be from {-len(shape)} to {len(shape) - 1} for {tuple(shape)}, got {self.axis}")
        axis = self.axis % len(shape)
        features = shape[axis]
        if features is not None and (features % self.num_units or features == 0):
            raise ValueError(f"number of features ({features}) is not a multiple of num_units ({self.num_units})")
        return axis

    def get_config(self) -> dict[str, Any]:
        mine = {"num_units": self.num_units, "axis": self.axis, "grouping": self.grouping}
        return {**super().get_config(), **mine}


@_serializable
def hard_swish(x: Any) -> Any:
    """x * relu6(x + 3) / 6 (Howard et al. 2019), to be given as `activation=hard_swish`.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import hard_swish
    >>> layer = keras.layers.Conv2D(16, 3, padding="same", activation=hard_swish)
    >>> layer = keras.layers.Activation(hard_swish)
    """
    return fp.hard_swish(x) if _for_fastpool(x) else ops.hard_silu(x)


@_serializable
class HardSwish(keras.layers.Layer):
    """`hard_swish` as a layer, which a model's summary shows.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import HardSwish
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), HardSwish()])
    >>> model.output_shape
    (None, 4)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return hard_swish(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def max_pool_by_conv(input_shape: tuple[int, int, int], pool_size: int | tuple[int, int]) -> keras.Model:
    """A model of Conv2D, Concatenate and Add layers that does what MaxPooling2D(pool_size) does, up to rounding.

    It is a tree of relu(a - b) + b, the one of `fastpool.identities.max_pool2d_by_conv`, with constant weights.

    Parameters
    ----------
    input_shape : (height, width, channels), or (channels, height, width) if Keras is set to channels_first
    pool_size : int or (int, int)
        The window, and its stride.

    Returns
    -------
    keras.Model
        Not trainable.

    Raises
    ------
    ValueError
        If the window does not fit into the images.

    Examples
    --------
    >>> from fastpool.integrations.keras import max_pool_by_conv
    >>> model = max_pool_by_conv((16, 16, 1), 2)
    >>> [type(layer).__name__ for layer in model.layers]
    ['InputLayer', 'Conv2D', 'Conv2D', 'Concatenate', 'Conv2D', 'Conv2D', 'Add']
    >>> model.output_shape
    (None, 8, 8, 1)
    """
    window = tuple(pool_size) if isinstance(pool_size, (tuple, list)) else (pool_size, pool_size)
    height, width = (positive("pool_size", size) for size in window)
    channels_last = keras.config.image_data_format() == "channels_last"
    channels = input_shape[-1 if channels_last else 0]
    one_channel = np.eye(channels)
    inputs = keras.Input(input_shape)

    def conv(features: Any, rows: np.ndarray, size: tuple[int, int], activation: str) -> Any:
        """`rows` times the features of a window, those of each channel by themselves."""
        taps = rows.reshape(len(rows), *size, -1)
        kernel = np.einsum("mhwp,cd->hwpcmd", taps, one_channel).reshape(*size, -1, len(rows) * channels)
        layer = keras.layers.Conv2D(
            len(rows) * channels, size, size, activation=activation, use_bias=False, kernel_initializer="zeros"
        )
        result = layer(features)
        layer.set_weights([kernel])
        return result

    size, outputs = (height, width), inputs
    for differences, kept in relu_stages(height * width):
        parts = [conv(outputs, differences, size, "relu"), conv(outputs, kept, size, "linear")]
        last = len(differences) == len(kept) == 1
        outputs = keras.layers.Add()(parts) if last else keras.layers.Concatenate(-1 if channels_last else 1)(parts)
        size = (1, 1)
    model = keras.Model(inputs, outputs if height * width > 1 else conv(inputs, np.ones((1, 1)), size, "linear"))
    model.trainable = False
    return model


def use_in_numpy_backend() -> ExitStack:
    """Let `keras.ops.max_pool`, and so Keras' MaxPooling layers, run on fastpool in Keras' NumPy backend.

    There they go through JAX otherwise. It holds from the call on, for the whole process, until it is undone.

    Returns
    -------
    contextlib.ExitStack
        Undo it with `close()`, or use it in a `with` block.

    Raises
    ------
    RuntimeError
        If Keras runs on another backend.

    Examples
    --------
    >>> import keras
    >>> import numpy as np
    >>> from fastpool.integrations.keras import use_in_numpy_backend
    >>> with use_in_numpy_backend():  # doctest: +SKIP
    ...     keras.layers.MaxPooling2D()(np.zeros((1, 4, 4, 3), "float32"))
    """
    if keras.backend.backend() != "numpy":
        raise RuntimeError(
            f"Keras runs on its backend {keras.backend.backend()!r}; start Python with KERAS_BACKEND=numpy to use this"
        )
    from keras.src.backend import nn

    undo = ExitStack()
    if nn.max_pool is not _max_pool:
        undo.callback(setattr, nn, "max_pool", nn.max_pool)
        nn.max_pool = _max_pool
    return undo


def _max_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None
) -> np.ndarray:
    """`keras.ops.max_pool`."""
    x = np.asarray(inputs)
    pool = {3: fp.max_pool1d, 4: fp.max_pool2d, 5: fp.max_pool3d}.get(x.ndim)
    if pool is None:
        raise ValueError(f"inputs must have a batch, a channel and one to three spatial axes, got shape {x.shape}")
    data_format = data_format or keras.config.image_data_format()
    return pool(x, pool_size, strides, padding, data_format=data_format)
