"""Layers with a forward and a backward pass, for networks written in NumPy.

They keep the contract of the from-scratch framework deepnet (https://github.com/parasdahal/deepnet): a layer is
made with `X_dim`, the shape of one example without the batch, and has

- `params`: a list of arrays, which an optimiser changes in place or replaces
- `out_dim`: the shape of one example behind the layer, known before any data (None where X_dim was not given)
- `forward(X) -> out`, for a batch of any size
- `backward(dout) -> (dX, grads)`: the gradient of the input, and those of `params` in their order

Arrays are channels first, (N, C, H, W). A layer remembers its last forward pass for the backward one; what it was
given must not be changed in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import numpy as np

from fastpool import arrays
from fastpool.activation import hard_swish, hard_swish_backward, swish, swish_backward
from fastpool.arguments import check_shape, integer, positive, required_stride
from fastpool.average_pooling import global_avg_pool, global_avg_pool_backward
from fastpool.convolution import conv2d, conv2d_backward
from fastpool.dtypes import is_float
from fastpool.maxout import check_grouping, maxout, maxout_backward
from fastpool.pooling import max_pool2d, max_pool2d_backward
from fastpool.type_hints import Padding
from fastpool.window import Window

__all__ = [
    "Conv2D",
    "Dense",
    "Flatten",
    "GlobalAvgPool2D",
    "HardSwish",
    "Layer",
    "MaxPool2D",
    "Maxout",
    "MaxoutDense",
    "SoftmaxCrossEntropy",
    "Swish",
]

Dims = tuple[int, ...]
Size = int | tuple[int, int]
Rng = int | np.random.Generator | None
Gradients = tuple[np.ndarray, list[np.ndarray]]


def checked_dims(X_dim: Any, *axes: str) -> Dims:
    """The shape of one example: the axes named, or any number of them where none is."""
    many = isinstance(X_dim, (Sequence, np.ndarray)) and not isinstance(X_dim, str)
    dims = check_shape("X_dim", X_dim) if many else (integer("X_dim", X_dim),)
    if not dims or min(dims) < 1 or (axes and len(dims) != len(axes)):
        wanted = f"({', '.join(axes)})" if len(axes) != 1 else f"the number of {axes[0]}"
        raise ValueError(f"X_dim must be {wanted if axes else 'the shape of one example'}, all positive, got {X_dim!r}")
    return dims


class Layer:
    """What all layers share: X_dim, out_dim, params, and the memory of the last forward pass."""

    def __init__(self, X_dim: Dims | None, out_dim: Dims | None) -> None:
        self.X_dim = X_dim
        self.out_dim = out_dim
        self.params: list[np.ndarray] = []
        self._saved: Any = None

    def forward(self, X: Any) -> np.ndarray:
        """The output for a batch X of shape (N, *X_dim)."""
        raise NotImplementedError

    def backward(self, dout: Any) -> Gradients:
        """The gradients of the input and of the params, from the gradient of the last forward pass's output."""
        raise NotImplementedError

    def _batch(self, X: Any) -> np.ndarray:
        X = arrays.read("X", X)
        if X.ndim < 2 or (self.X_dim is not None and X.shape[1:] != self.X_dim):
            wanted = "..." if self.X_dim is None else ", ".join(map(str, self.X_dim))
            raise ValueError(f"X must have shape (N, {wanted}) for {type(self).__name__}, got {X.shape}")
        return X

    def _last_forward(self) -> Any:
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward pass before it")
        return self._saved


class _WithParams(Layer):
    """A layer of weights W and a bias b, which it looks up in params at each pass."""

    def __init__(
        self, X_dim: Dims, out_dim: Dims, W_shape: Dims, b_shape: Dims, fan_in: int, dtype: Any, rng: Rng
    ) -> None:
        super().__init__(X_dim, out_dim)
        self.dtype = np.dtype(dtype)
        if not is_float(self.dtype):
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {self.dtype}")
        W = np.random.default_rng(rng).standard_normal(W_shape) * sqrt(2 / fan_in)
        self.params = [W.astype(self.dtype), np.zeros(b_shape, self.dtype)]

    @property
    def W(self) -> np.ndarray:
        return self.params[0]

    @property
    def b(self) -> np.ndarray:
        return self.params[1]

    def _batch(self, X: Any) -> np.ndarray:
        X = super()._batch(X)
        if X.dtype != self.dtype:
            raise TypeError(
                f"X must be {self.dtype} as the params of this {type(self).__name__}, got {X.dtype}; "
                "convert it, or make the layer with another dtype"
            )
        return X


class Conv2D(_WithParams):
    """Convolution of images, by `fastpool.conv2d`.

    Parameters
    ----------
    X_dim : (channels, height, width)
    n_filter : int
    kernel_size : int or (int, int)
    stride, padding, dilation, groups
        As in `fastpool.conv2d`.
    dtype : float dtype of the params and of the data
    rng : numpy.random.Generator or seed
        For the weights, normal with variance 2 / fan_in (He et al. 2015); the bias starts at 0.
    backend : str
        As in `fastpool.max_pool2d`.

    Attributes
    ----------
    params : [W, b] of shapes (n_filter, channels / groups, KH, KW) and (n_filter,)
    out_dim : (n_filter, OH, OW)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import Conv2D
    >>> layer = Conv2D((3, 8, 8), 16, 3, padding=1, rng=0)
    >>> layer.out_dim
    (16, 8, 8)
    >>> out = layer.forward(np.ones((5, 3, 8, 8), np.float32))
    >>> dX, (dW, db) = layer.backward(out)
    >>> dX.shape, dW.shape, db.shape
    ((5, 3, 8, 8), (16, 3, 3, 3), (16,))
    """

    def __init__(
        self,
        X_dim: tuple[int, int, int],
        n_filter: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        *,
        dtype: Any = np.float32,
        rng: Rng = None,
        backend: str | None = None,
    ) -> None:
        dims = checked_dims(X_dim, "channels", "height", "width")
        n_filter, groups = positive("n_filter", n_filter), positive("groups", groups)
        if dims[0] % groups or n_filter % groups:
            raise ValueError(f"groups must divide the channels ({dims[0]}) and n_filter ({n_filter}), got {groups}")
        window = Window.plan(2, (1, *dims), kernel_size, required_stride(stride), padding, dilation)
        W_shape = (n_filter, dims[0] // groups, *window.kernel[1:])
        super().__init__(dims, (n_filter, *window.out[1:]), W_shape, (n_filter,), prod(W_shape[1:]), dtype, rng)
        self._window = (stride, padding, dilation, groups)
        self._backend = backend

    def forward(self, X: Any) -> np.ndarray:
        self._saved = X = self._batch(X)
        return conv2d(X, self.W, self.b, *self._window, backend=self._backend)

    def backward(self, dout: Any) -> Gradients:
        dX, dW, db = conv2d_backward(dout, self._last_forward(), self.W, *self._window, backend=self._backend)
        return dX, [dW, db]


class MaxPool2D(Layer):
    """Max pooling of images, by `fastpool.max_pool2d`.

    It stands in for deepnet's `Maxpool(X_dim, size, stride)`, and also takes sizes that do not fit a whole
    number of times.

    Parameters
    ----------
    X_dim : (channels, height, width)
    kernel_size, stride, padding, dilation, ceil_mode, backend
        As in `fastpool.max_pool2d`.

    Attributes
    ----------
    params : []
    out_dim : (channels, OH, OW)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import MaxPool2D
    >>> layer = MaxPool2D((1, 2, 4), 2)
    >>> layer.out_dim
    (1, 1, 2)
    >>> layer.forward(np.array([[[[1.0, 2.0, 7.0, 5.0], [4.0, 3.0, 6.0, 8.0]]]]))
    array([[[[4., 8.]]]])
    >>> layer.backward(np.array([[[[10.0, 20.0]]]]))
    (array([[[[ 0.,  0.,  0.,  0.],
             [10.,  0.,  0., 20.]]]]), [])
    """

    def __init__(
        self,
        X_dim: tuple[int, int, int],
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        backend: str | None = None,
    ) -> None:
        dims = checked_dims(X_dim, "channels", "height", "width")
        self._window = (kernel_size, stride, padding, dilation, ceil_mode)
        super().__init__(dims, Window.plan(2, (1, *dims), *self._window).y_shape[1:])
        self._backend = backend

    def forward(self, X: Any) -> np.ndarray:
        X = self._batch(X)
        out, argmax = max_pool2d(X, *self._window, return_argmax=True, backend=self._backend)
        self._saved = argmax, X.shape
        return out

    def backward(self, dout: Any) -> Gradients:
        argmax, shape = self._last_forward()
        return max_pool2d_backward(dout, argmax, shape, *self._window, backend=self._backend), []


class GlobalAvgPool2D(Layer):
    """The mean of each channel of images, by `fastpool.global_avg_pool`: what comes out are rows of features.

    Parameters
    ----------
    X_dim : (channels, height, width)
    backend : str
        As in `fastpool.global_avg_pool`.

    Attributes
    ----------
    params : []
    out_dim : (channels,)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import GlobalAvgPool2D
    >>> layer = GlobalAvgPool2D((1, 2, 2))
    >>> layer.forward(np.array([[[[1.0, 2.0], [3.0, 6.0]]]]))
    array([[3.]])
    >>> layer.backward(np.array([[8.0]]))
    (array([[[[2., 2.],
             [2., 2.]]]]), [])
    """

    def __init__(self, X_dim: tuple[int, int, int], *, backend: str | None = None) -> None:
        dims = checked_dims(X_dim, "channels", "height", "width")
        super().__init__(dims, dims[:1])
        self._backend = backend

    def forward(self, X: Any) -> np.ndarray:
        X = self._batch(X)
        out = global_avg_pool(X, backend=self._backend)
        self._saved = X.shape
        return out

    def backward(self, dout: Any) -> Gradients:
        return global_avg_pool_backward(dout, self._last_forward(), backend=self._backend), []


class Maxout(Layer):
    """Maxout along the channels, by `fastpool.maxout`: num_units channels come out, each the largest of its pieces.

    Parameters
    ----------
    X_dim : (channels, height, width), or the shape of one example with the channels first
    num_units : int
        The channels must be a multiple of it.
    grouping, backend
        As in `fastpool.maxout`.

    Attributes
    ----------
    params : []
    out_dim : (num_units, height, width)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import Maxout
    >>> layer = Maxout((4, 1, 1), 2)
    >>> layer.forward(np.array([1.0, 5.0, 3.0, 2.0]).reshape(1, 4, 1, 1)).ravel()
    array([3., 5.])
    >>> dX, grads = layer.backward(np.array([10.0, 20.0]).reshape(1, 2, 1, 1))
    >>> dX.ravel(), grads
    (array([ 0., 20., 10.,  0.]), [])
    """

    def __init__(
        self,
        X_dim: int | Dims,
        num_units: int,
        *,
        grouping: str = "strided",
        backend: str | None = None,
    ) -> None:
        dims = checked_dims(X_dim)
        num_units = positive("num_units", num_units)
        if dims[0] % num_units:
            raise ValueError(f"the channels of X_dim ({dims[0]}) must be a multiple of num_units ({num_units})")
        grouping = check_grouping(grouping)
        super().__init__(dims, (num_units, *dims[1:]))
        self._num_units, self._grouping, self._backend = num_units, grouping, backend

    def forward(self, X: Any) -> np.ndarray:
        X = self._batch(X)
        out, argmax = maxout(
            X, self._num_units, axis=1, grouping=self._grouping, return_argmax=True, backend=self._backend
        )
        self._saved = argmax, X.shape
        return out

    def backward(self, dout: Any) -> Gradients:
        argmax, shape = self._last_forward()
        return maxout_backward(dout, argmax, shape, axis=1, grouping=self._grouping, backend=self._backend), []


class Dense(_WithParams):
    """A dense layer, XW + b.

    Parameters
    ----------
    X_dim : int or (int,)
        The features that come in.
    n_out : int
        The features that go out.
    dtype, rng
        As in `Conv2D`.

    Attributes
    ----------
    params : [W, b] of shapes (features, n_out) and (n_out,)
    out_dim : (n_out,)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import Dense
    >>> layer = Dense(3, 2, dtype=np.float64, rng=0)
    >>> layer.params[0][:] = [[1, 2], [3, 4], [5, 6]]
    >>> layer.forward(np.array([[1.0, 0.0, 1.0]]))
    array([[6., 8.]])
    >>> dX, (dW, db) = layer.backward(np.array([[1.0, 0.0]]))
    >>> dX, db
    (array([[1., 3., 5.]]), array([1., 0.]))
    """

    def __init__(self, X_dim: int | Dims, n_out: int, *, dtype: Any = np.float32, rng: Rng = None) -> None:
        (features,) = checked_dims(X_dim, "features")
        n_out = positive("n_out", n_out)
        super().__init__((features,), (n_out,), (features, n_out), (n_out,), features, dtype, rng)

    def forward(self, X: Any) -> np.ndarray:
        self._saved = X = self._batch(X)
        return X @ self.W + self.b

    def backward(self, dout: Any) -> Gradients:
        X = self._last_forward()
        dout = arrays.expect("dout", dout, (len(X), len(self.b)), self.dtype, "the forward pass")
        return dout @ self.W.T, [X.T @ dout, dout.sum(axis=0)]


class MaxoutDense(_WithParams):
    """A dense layer of maxout units: unit i gives the largest of x^T W[:, i, j] + b[i, j] over the pieces j.

    From Goodfellow et al. 2013, "Maxout Networks".

    Parameters
    ----------
    X_dim : int or (int,)
        The features that come in.
    num_units : int
        The features that go out.
    pieces : int
        The linear pieces of each unit, the k of the paper.
    dtype, rng, backend
        As in `Conv2D`.

    Attributes
    ----------
    params : [W, b] of shapes (features, num_units, pieces) and (num_units, pieces), as in the paper
    out_dim : (num_units,)

    Raises
    ------
    TypeError, ValueError
        For dimensions that do not fit.

    Examples
    --------
    With the pieces x and -x a unit learns the absolute value.

    >>> import numpy as np
    >>> from fastpool.layers import MaxoutDense
    >>> layer = MaxoutDense(1, 1, 2, dtype=np.float64, rng=0)
    >>> layer.params[0][:] = [[[1, -1]]]
    >>> layer.forward(np.array([[-3.0], [2.0]]))
    array([[3.],
           [2.]])
    >>> layer.backward(np.array([[1.0], [1.0]]))[0]
    array([[-1.],
           [ 1.]])
    """

    def __init__(
        self,
        X_dim: int | Dims,
        num_units: int,
        pieces: int,
        *,
        dtype: Any = np.float32,
        rng: Rng = None,
        backend: str | None = None,
    ) -> None:
        (features,) = checked_dims(X_dim, "features")
        units = (positive("num_units", num_units), positive("pieces", pieces))
        super().__init__((features,), units[:1], (features, *units), units, features, dtype, rng)
        self._backend = backend

    def forward(self, X: Any) -> np.ndarray:
        X = self._batch(X)
        z = X @ self.W.reshape(X.shape[1], -1) + self.b.reshape(-1)
        out, argmax = maxout(z, len(self.b), grouping="contiguous", return_argmax=True, backend=self._backend)
        self._saved = X, argmax
        return out

    def backward(self, dout: Any) -> Gradients:
        X, argmax = self._last_forward()
        dout = arrays.expect("dout", dout, argmax.shape, self.dtype, "the forward pass")
        dz = maxout_backward(dout, argmax, (len(X), self.b.size), grouping="contiguous", backend=self._backend)
        dW, db = (X.T @ dz).reshape(self.W.shape), dz.sum(axis=0).reshape(self.b.shape)
        return dz @ self.W.reshape(X.shape[1], -1).T, [dW, db]


class Flatten(Layer):
    """Each example as one row.

    Parameters
    ----------
    X_dim : tuple of int, optional
        The shape of one example; without it any comes in, and out_dim is None.

    Attributes
    ----------
    params : []
    out_dim : (features,)

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import Flatten
    >>> layer = Flatten((16, 4, 4))
    >>> layer.out_dim
    (256,)
    >>> layer.forward(np.zeros((10, 16, 4, 4))).shape
    (10, 256)
    """

    def __init__(self, X_dim: int | Dims | None = None) -> None:
        dims = None if X_dim is None else checked_dims(X_dim)
        super().__init__(dims, None if dims is None else (prod(dims),))

    def forward(self, X: Any) -> np.ndarray:
        X = self._batch(X)
        self._saved = X.shape
        return X.reshape(len(X), prod(X.shape[1:]))

    def backward(self, dout: Any) -> Gradients:
        shape = self._last_forward()
        dout = arrays.read("dout", dout, floats_only=True)
        flat = (shape[0], prod(shape[1:]))
        if dout.shape != flat:
            raise ValueError(f"dout must have the shape {flat} of the forward pass, got {dout.shape}")
        return dout.reshape(shape), []


class HardSwish(Layer):
    """hard-swish, elementwise, by `fastpool.hard_swish`.

    Parameters
    ----------
    X_dim : tuple of int, optional
        The shape of one example; without it any comes in, and out_dim is None.
    backend : str
        As in `fastpool.hard_swish`.

    Attributes
    ----------
    params : []
    out_dim : X_dim

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import HardSwish
    >>> layer = HardSwish()
    >>> layer.forward(np.array([[-4.0, 0.0, 4.0]]))
    array([[0., 0., 4.]])
    >>> layer.backward(np.array([[1.0, 1.0, 1.0]]))
    (array([[0. , 0.5, 1. ]]), [])
    """

    def __init__(self, X_dim: int | Dims | None = None, *, backend: str | None = None) -> None:
        dims = None if X_dim is None else checked_dims(X_dim)
        super().__init__(dims, dims)
        self._backend = backend

    def forward(self, X: Any) -> np.ndarray:
        self._saved = X = self._batch(X)
        return hard_swish(X, backend=self._backend)

    def backward(self, dout: Any) -> Gradients:
        return hard_swish_backward(dout, self._last_forward(), backend=self._backend), []


class Swish(Layer):
    """swish, elementwise, by `fastpool.swish`.

    Parameters
    ----------
    X_dim : tuple of int, optional
        The shape of one example; without it any comes in, and out_dim is None.
    beta : float
        A constant, not learned.
    backend : str
        As in `fastpool.swish`.

    Attributes
    ----------
    params : []
    out_dim : X_dim

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import Swish
    >>> layer = Swish()
    >>> layer.forward(np.array([[0.0, 100.0]]))
    array([[  0., 100.]])
    >>> layer.backward(np.array([[1.0, 1.0]]))
    (array([[0.5, 1. ]]), [])
    """

    def __init__(self, X_dim: int | Dims | None = None, beta: float = 1.0, *, backend: str | None = None) -> None:
        dims = None if X_dim is None else checked_dims(X_dim)
        super().__init__(dims, dims)
        self._beta, self._backend = beta, backend

    def forward(self, X: Any) -> np.ndarray:
        self._saved = X = self._batch(X)
        return swish(X, self._beta, backend=self._backend)

    def backward(self, dout: Any) -> Gradients:
        return swish_backward(dout, self._last_forward(), self._beta, backend=self._backend), []


class SoftmaxCrossEntropy:
    """The mean over the batch of -log softmax(logits)[label]: the loss, so it ends a network.

    Attributes
    ----------
    params : []
    probabilities : array of the shape of the logits
        The softmax of the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpool.layers import SoftmaxCrossEntropy
    >>> loss = SoftmaxCrossEntropy()
    >>> round(loss.forward(np.array([[1000.0, 1000.0]]), np.array([0])), 6)
    0.693147
    >>> loss.backward()
    array([[-0.5,  0.5]])
    """

    def __init__(self) -> None:
        self.params: list[np.ndarray] = []
        self.probabilities: np.ndarray | None = None
        self._labels: np.ndarray | None = None

    def forward(self, logits: Any, labels: Any) -> float:
        """The mean loss.

        Parameters
        ----------
        logits : float array of shape (N, classes), N at least 1
        labels : integer array of shape (N,), each from 0 below classes

        Raises
        ------
        TypeError, ValueError
            For dtypes, shapes or labels that do not fit.
        """
        logits = arrays.read("logits", logits, floats_only=True)
        labels = arrays.read("labels", labels)
        if logits.ndim != 2 or min(logits.shape) < 1:
            raise ValueError(f"logits must have shape (N, classes), neither 0, got {logits.shape}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if labels.shape != logits.shape[:1]:
            raise ValueError(
                f"labels must have shape {logits.shape[:1]}, one for each row of logits, got {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            wrong = labels[(labels < 0) | (labels >= logits.shape[1])][0]
            raise ValueError(f"labels must be from 0 below {logits.shape[1]}, the number of classes, got {wrong}")

        shifted = logits - logits.max(axis=1, keepdims=True)
        exps = np.exp(shifted)
        sums = exps.sum(axis=1, keepdims=True)
        self.probabilities, self._labels = exps / sums, labels
        each = np.log(sums[:, 0]) - shifted[np.arange(len(labels)), labels]
        return float(each.mean())

    def backward(self) -> np.ndarray:
        """The gradient of the last loss with respect to the logits."""
        if self.probabilities is None or self._labels is None:
            raise RuntimeError("SoftmaxCrossEntropy.backward needs a forward pass before it")
        dlogits = self.probabilities.copy()
        dlogits[np.arange(len(dlogits)), self._labels] -= 1
        dlogits /= len(dlogits)
        return dlogits
