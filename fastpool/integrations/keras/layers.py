"""Maxout, swish and hard-swish as layers and functions of Keras."""

from __future__ import annotations

import warnings
from typing import Any

from keras import ops

import fastpool as fp
from fastpool.arguments import finite, integer, positive
from fastpool.integrations.keras.stateless import StatelessLayer, runs_on_fastpool, serializable
from fastpool.maxout import check_grouping


@serializable
class Maxout(StatelessLayer):
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
        self.num_units, self.axis = positive("num_units", num_units), integer("axis", axis)
        self.grouping = check_grouping(grouping)
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
        if runs_on_fastpool(inputs):
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


class _Elementwise(StatelessLayer):
    """What keeps the shape of its input, and its mask."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@serializable
def hard_swish(x: Any) -> Any:
    """x * relu6(x + 3) / 6 (Howard et al. 2019), to be given as `activation=hard_swish`.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import hard_swish
    >>> layer = keras.layers.Conv2D(16, 3, padding="same", activation=hard_swish)
    >>> layer = keras.layers.Activation(hard_swish)
    """
    return fp.hard_swish(x) if runs_on_fastpool(x) else ops.hard_silu(x)


@serializable
class HardSwish(_Elementwise):
    """`hard_swish` as a layer, which a model's summary shows.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import HardSwish
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), HardSwish()])
    >>> model.output_shape
    (None, 4)
    """

    def call(self, inputs: Any) -> Any:
        return hard_swish(inputs)


@serializable
def swish(x: Any, beta: float = 1.0) -> Any:
    """x * sigmoid(beta * x) (Ramachandran et al. 2017), to be given as `activation=swish`.

    Parameters
    ----------
    x : tensor of any shape and floating dtype
    beta : float
        With 1 it is `keras.activations.silu`.

    Raises
    ------
    TypeError, ValueError
        If beta is not a finite number.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import swish
    >>> layer = keras.layers.Conv2D(16, 3, padding="same", activation=swish)
    """
    beta = finite("beta", beta)
    if runs_on_fastpool(x):
        return fp.swish(x, beta)
    return ops.silu(x) if beta == 1 else x * ops.sigmoid(beta * x)


@serializable
class Swish(_Elementwise):
    """`swish` as a layer, which a model's summary shows.

    Parameters
    ----------
    beta : float
        A constant, which is not trained.

    Raises
    ------
    TypeError, ValueError
        If beta is not a finite number.

    Examples
    --------
    >>> import keras
    >>> from fastpool.integrations.keras import Swish
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), Swish(beta=1.702)])
    >>> model.output_shape
    (None, 4)
    """

    def __init__(self, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = finite("beta", beta)

    def call(self, inputs: Any) -> Any:
        return swish(inputs, self.beta)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}
