"""Max pooling made of Keras' convolutions alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fastpool.arguments import positive
from fastpool.identities import relu_stages


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
