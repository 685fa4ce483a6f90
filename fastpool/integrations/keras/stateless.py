"""What the layers for Keras have in common."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

serializable = keras.saving.register_keras_serializable(package="fastpool")


def runs_on_fastpool(x: Any) -> bool:
    """Whether kernels take an input of a layer: only Keras' NumPy backend has arrays that they read."""
    return keras.backend.backend() == "numpy" and isinstance(x, np.ndarray)


class StatelessLayer(keras.layers.Layer):
    """A layer without weights, which is built from the start as Keras' own are, unless a subclass has more to build."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.built = type(self).build is keras.layers.Layer.build
