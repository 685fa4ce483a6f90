"""Layers for Keras 3: maxout, swish and hard-swish, min and adaptive pooling, and max pooling made of convolutions.

    from fastpool.integrations.keras import HardSwish, Maxout, MinPooling2D, hard_swish

They run on every backend of Keras, train in `fit`, are saved and loaded with a model, and are exported with it. On the
NumPy backend, which only infers, fastpool's kernels do the work; `use_in_numpy_backend` makes Keras' own layers there
use them too. On all others they are made of Keras' operators, so that an exported model runs without fastpool; NaN
and ties are treated there as the backend treats them.
"""

from fastpool.integrations.keras.convolutions import max_pool_by_conv
from fastpool.integrations.keras.layers import HardSwish, Maxout, Swish, hard_swish, swish
from fastpool.integrations.keras.numpy_backend import use_in_numpy_backend
from fastpool.integrations.keras.pooling import (
    AdaptiveAveragePooling1D,
    AdaptiveAveragePooling2D,
    AdaptiveAveragePooling3D,
    AdaptiveMaxPooling1D,
    AdaptiveMaxPooling2D,
    AdaptiveMaxPooling3D,
    MinPooling1D,
    MinPooling2D,
    MinPooling3D,
)

__all__ = [
    "AdaptiveAveragePooling1D",
    "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D",
    "AdaptiveMaxPooling3D",
    "HardSwish",
    "Maxout",
    "MinPooling1D",
    "MinPooling2D",
    "MinPooling3D",
    "Swish",
    "hard_swish",
    "max_pool_by_conv",
    "swish",
    "use_in_numpy_backend",
]
