"""How each library is asked in tests/decisions.py.

    python tests/library_decisions.py PyTorch SciPy

prints the answers of these libraries as JSON; those that are not installed are left out. Keras is asked on the backend
that KERAS_BACKEND names.
"""

import json
import sys
import warnings
from importlib.util import find_spec

import numpy as np
from decisions import Library, Missing, NoDefault, answers


class Fastpool(Library):
    def __init__(self):
        import fastpool

        self.fp = fastpool

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        return self.fp.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)

    def max_pool_same(self, x, kernel):
        return tuple(self.fp.max_pool2d(x, kernel, 1, word) for word in ("same", "same_lower"))

    def indices(self, x, kernel, stride, padding):
        return self.fp.max_pool2d(x, kernel, stride, padding, return_argmax=True)[1]

    def gradient(self, x, kernel):
        y, argmax = self.fp.max_pool2d(x, kernel, return_argmax=True)
        return self.fp.max_pool2d_backward(np.ones_like(y), argmax, x.shape, kernel)

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        return self.fp.avg_pool2d(x, kernel, stride, padding, ceil_mode)

    def adaptive_average(self, x, size):
        return self.fp.adaptive_avg_pool2d(x, size)

    def dilation(self, x, footprint):
        return self.fp.morphology.dilate(x, footprint)


class PyTorch(Library):
    def __init__(self):
        import torch

        self.torch, self.functional = torch, torch.nn.functional

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        x = self.torch.from_numpy(x)
        return self.functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode).numpy()

    def indices(self, x, kernel, stride, padding):
        x = self.torch.from_numpy(x)
        return self.functional.max_pool2d(x, kernel, stride, padding, return_indices=True)[1].numpy()

    def gradient(self, x, kernel):
        x = self.torch.from_numpy(x).requires_grad_()
        self.functional.max_pool2d(x, kernel).sum().backward()
        return x.grad.numpy()

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        return self.functional.avg_pool2d(self.torch.from_numpy(x), kernel, stride, padding, ceil_mode).numpy()

    def adaptive_average(self, x, size):
        return self.functional.adaptive_avg_pool2d(self.torch.from_numpy(x), size).numpy()


def channels_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def channels_first(y):
    return np.moveaxis(np.asarray(y), -1, 1)


class TensorFlow(Library):
    def __init__(self):
        import tensorflow

        self.tf = tensorflow

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if ceil_mode:
            raise Missing
        if dilation > 1:
            if padding:  # `tf.nn.pool` takes words alone
                raise Missing
            y = self.tf.nn.pool(channels_last(x), (kernel, kernel), "MAX", padding="VALID", dilations=(dilation,) * 2)
            return channels_first(y)
        pads = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
        return channels_first(self.tf.nn.max_pool2d(channels_last(x), kernel, stride, pads))

    def max_pool_same(self, x, kernel):
        return channels_first(self.tf.nn.max_pool2d(channels_last(x), kernel, 1, "SAME"))

    def indices(self, x, kernel, stride, padding):
        word = "SAME" if padding else "VALID"
        _, indices = self.tf.nn.max_pool_with_argmax(channels_last(x), kernel, stride, word)
        return channels_first(indices)

    def gradient(self, x, kernel):
        x = self.tf.constant(channels_last(x))
        with self.tf.GradientTape() as tape:
            tape.watch(x)
            y = self.tf.nn.max_pool2d(x, kernel, kernel, "VALID")
        return channels_first(tape.gradient(y, x))

    def average_same(self, x, kernel):
        return channels_first(self.tf.nn.avg_pool2d(channels_last(x), kernel, 1, "SAME"))


class Keras(Library):
    """On one of its backends."""

    def __init__(self):
        import keras

        self.keras, self.backend = keras, keras.backend.backend()

    def _numpy(self, y):
        return channels_first(self.keras.ops.convert_to_numpy(y))

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if padding or dilation > 1 or ceil_mode:
            raise Missing
        return self._numpy(self.keras.layers.MaxPooling2D(kernel, stride)(channels_last(x)))

    def max_pool_same(self, x, kernel):
        return self._numpy(self.keras.layers.MaxPooling2D(kernel, 1, "same")(channels_last(x)))

    def gradient(self, x, kernel):
        layer, x = self.keras.layers.MaxPooling2D(kernel), self.keras.ops.convert_to_tensor(channels_last(x))
        if self.backend == "tensorflow":
            import tensorflow

            with tensorflow.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return self._numpy(tape.gradient(y, x))
        if self.backend == "torch":
            x = x.detach().requires_grad_()
            layer(x).sum().backward()
            return self._numpy(x.grad)
        if self.backend == "jax":
            import jax

            return self._numpy(jax.grad(lambda x: layer(x).sum())(x))
        raise Missing  # its NumPy backend does not train

    def average_same(self, x, kernel):
        return self._numpy(self.keras.layers.AveragePooling2D(kernel, 1, "same")(channels_last(x)))

    def adaptive_average(self, x, size):
        return self._numpy(self.keras.layers.AdaptiveAveragePooling2D(size)(channels_last(x)))


class Jax(Library):
    def __init__(self):
        import jax

        self.jax = jax

    def _pool(self, x, kernel, stride, padding, dilation=1):
        over_space = {"window_dilation": (1, 1, dilation, dilation)}
        pads = padding if isinstance(padding, str) else ((0, 0), (0, 0), (padding, padding), (padding, padding))
        window = (1, 1, kernel, kernel), (1, 1, stride, stride), pads
        return self.jax.lax.reduce_window(x, -np.inf, self.jax.lax.max, *window, **over_space)

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if ceil_mode:
            raise Missing
        return np.asarray(self._pool(x, kernel, stride, padding, dilation))

    def max_pool_same(self, x, kernel):
        return tuple(np.asarray(self._pool(x, kernel, 1, word)) for word in ("SAME", "SAME_LOWER"))

    def gradient(self, x, kernel):
        return np.asarray(self.jax.grad(lambda x: self._pool(x, kernel, kernel, 0).sum())(x))


class OnnxRuntime(Library):
    """Models of one node."""

    def __init__(self):
        import onnx
        import onnxruntime

        self.onnx, self.runtime = onnx, onnxruntime

    def _run(self, op, x, outputs=1, **attributes):
        helper, proto = self.onnx.helper, self.onnx.TensorProto
        names = ["y", "indices"][:outputs]
        node = helper.make_node(op, ["x"], names, **attributes)
        results = [
            helper.make_tensor_value_info(n, t, None) for n, t in zip(names, (proto.FLOAT, proto.INT64), strict=False)
        ]
        graph = helper.make_graph([node], op, [helper.make_tensor_value_info("x", proto.FLOAT, x.shape)], results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        options = self.runtime.SessionOptions()
        options.log_severity_level = 4
        session = self.runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})

    def _window(self, kernel, stride, padding, dilation=1, ceil_mode=False):
        pads = {"auto_pad": padding} if isinstance(padding, str) else {"pads": [padding] * 4}
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2}
        return {**window, **pads, "ceil_mode": int(ceil_mode)}

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        return self._run("MaxPool", x, **self._window(kernel, stride, padding, dilation, ceil_mode))[0]

    def max_pool_same(self, x, kernel):
        return tuple(self._run("MaxPool", x, **self._window(kernel, 1, f"SAME_{end}"))[0] for end in ("UPPER", "LOWER"))

    def indices(self, x, kernel, stride, padding):
        return self._run("MaxPool", x, outputs=2, **self._window(kernel, stride, padding))[1]

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        return self._run("AveragePool", x, **self._window(kernel, stride, padding, 1, ceil_mode))[0]


class OpenVino(Library):
    """Models of one node."""

    def __init__(self):
        import openvino

        self.openvino, self.core, self.ops = openvino, openvino.Core(), openvino.opset14

    def _run(self, x, make):
        parameter = self.ops.parameter(x.shape, x.dtype)
        model = self.openvino.Model(make(parameter).outputs(), [parameter])
        compiled = self.core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [np.array(y) for y in compiled(x).values()]

    def _max_pool(self, x, kernel, stride, padding, dilation=1, rounding="floor", auto_pad=None):
        strides, dilations, pads, kernels = ([n] * 2 for n in (stride, dilation, padding, kernel))
        window = strides, dilations, pads, pads, kernels, rounding, auto_pad
        return self._run(x, lambda x: self.ops.max_pool(x, *window, index_element_type="i64"))

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        return self._max_pool(x, kernel, stride, padding, dilation, "ceil" if ceil_mode else "floor")[0]

    def max_pool_same(self, x, kernel):
        return tuple(self._max_pool(x, kernel, 1, 0, auto_pad=f"same_{end}")[0] for end in ("upper", "lower"))

    def indices(self, x, kernel, stride, padding):
        return self._max_pool(x, kernel, stride, padding)[1]

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        if padding:
            raise NoDefault  # exclude_pad must be given
        window = [stride] * 2, [0] * 2, [0] * 2, [kernel] * 2, False, "ceil" if ceil_mode else "floor"
        return self._run(x, lambda x: self.ops.avg_pool(x, *window))[0]

    def adaptive_average(self, x, size):
        return self._run(x, lambda x: self.ops.adaptive_avg_pool(x, np.array([size, size])))[0]


class Filters(Library):
    """Libraries that have sliding windows, one for each element, of images (H, W), but no pools."""

    def filtered(self, x, kernel, before):
        """The maxima of windows that begin `before` elements before each element."""
        raise Missing

    def averaged(self, x, kernel, before):
        raise Missing

    def _pool(self, filtered, x, kernel, stride, padding):
        out = (x.shape[2] + 2 * padding - kernel) // stride + 1, (x.shape[3] + 2 * padding - kernel) // stride + 1
        return filtered(x[0, 0], kernel, padding)[None, None, ::stride, ::stride][:, :, : out[0], : out[1]]

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if ceil_mode:
            raise Missing
        if dilation > 1:
            footprint = np.zeros((dilation * (kernel - 1) + 1,) * 2, np.uint8)
            footprint[::dilation, ::dilation] = 1
            reach = len(footprint) // 2
            return self.dilation(x[0, 0], footprint)[None, None, reach:-reach, reach:-reach]
        return self._pool(self.filtered, x, kernel, stride, padding)

    def max_pool_same(self, x, kernel):
        return self.dilation(x[0, 0], np.ones((kernel, kernel), np.uint8))[None, None]

    def padding_alone(self):
        raise Missing

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        if ceil_mode:
            raise Missing
        return self._pool(self.averaged, x, kernel, stride, padding)


class SciPy(Filters):
    def __init__(self):
        import scipy.ndimage

        self.ndimage = scipy.ndimage

    def filtered(self, x, kernel, before):
        return self.ndimage.maximum_filter(x, kernel, origin=before - kernel // 2)

    def averaged(self, x, kernel, before):
        return self.ndimage.uniform_filter(x, kernel, origin=before - kernel // 2)

    def max_pool_same(self, x, kernel):
        return self.ndimage.maximum_filter(x[0, 0], kernel)[None, None]

    def dilation(self, x, footprint):
        return self.ndimage.grey_dilation(x, footprint=footprint)


class OpenCv(Filters):
    def __init__(self):
        import cv2

        self.cv2 = cv2

    def filtered(self, x, kernel, before):
        return self.cv2.dilate(x, np.ones((kernel, kernel), np.uint8), anchor=(before, before))

    def averaged(self, x, kernel, before):
        return self.cv2.blur(x, (kernel, kernel), anchor=(before, before))

    def padding_alone(self):
        return self.cv2.dilate(np.zeros((1, 1), np.float32), np.array([[1, 0]], np.uint8), anchor=(1, 0))

    def dilation(self, x, footprint):
        return self.cv2.dilate(x, footprint)


class ScikitImage(Filters):
    """Dilation of the package's `morphology`, by a footprint whose middle is shifted by zeros."""

    def __init__(self):
        import skimage.morphology

        self.morphology = skimage.morphology

    def filtered(self, x, kernel, before):
        after = kernel - 1 - before
        if after < 0:
            raise ValueError(f"a window of {kernel} cannot begin {before} before")
        side, reach = 2 * max(before, after) + 1, max(before, after)
        footprint = np.zeros((side, side), np.uint8)
        footprint[reach - before : reach + after + 1, reach - before : reach + after + 1] = 1
        return self.morphology.dilation(x, footprint)

    def dilation(self, x, footprint):
        return self.morphology.dilation(x, footprint)


class DeZero(Library):
    def __init__(self):
        vars(np).setdefault("int", int)  # which the latest release names
        import dezero.functions_conv

        self.dezero = dezero

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if dilation > 1 or ceil_mode:
            raise Missing
        return self.dezero.functions_conv.pooling(x, kernel, stride, padding).data

    def padding_alone(self):
        return self.max_pool(np.full((1, 1, 2, 2), -1, np.float32), 2, 1, 2)

    def gradient(self, x, kernel):
        x = self.dezero.Variable(x)
        self.dezero.functions.sum(self.dezero.functions_conv.pooling(x, kernel, kernel)).backward()
        return x.grad.data

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        if ceil_mode:
            raise Missing
        return self.dezero.functions_conv.average_pooling(x, kernel, stride, padding).data


class Cs231n(Library):
    """The course has no package: its functions as `fastpool.integrations.cs231n` has them, compared with its text."""

    def __init__(self):
        from fastpool.integrations import cs231n

        self.cs231n = cs231n

    def _forward(self, x, kernel, stride):
        return self.cs231n.max_pool_forward_fast(x, {"pool_height": kernel, "pool_width": kernel, "stride": stride})

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        if padding or dilation > 1 or ceil_mode:
            raise Missing
        return self._forward(x, kernel, stride)[0]

    def gradient(self, x, kernel):
        y, cache = self._forward(x, kernel, kernel)
        return self.cs231n.max_pool_backward_fast(np.ones_like(y), cache)


# By the heading of their column; and the packages that they need.
LIBRARIES = {
    "fastpool": (Fastpool, "fastpool"),
    "PyTorch": (PyTorch, "torch"),
    "TensorFlow": (TensorFlow, "tensorflow"),
    "Keras": (Keras, "keras"),
    "JAX": (Jax, "jax"),
    "ONNX Runtime": (OnnxRuntime, "onnx", "onnxruntime"),
    "OpenVINO": (OpenVino, "openvino"),
    "SciPy": (SciPy, "scipy"),
    "OpenCV": (OpenCv, "cv2"),
    "scikit-image": (ScikitImage, "skimage"),
    "DeZero": (DeZero, "dezero"),
    "cs231n": (Cs231n, "fastpool"),
}


def installed(name):
    return all(find_spec(package) is not None for package in LIBRARIES[name][1:])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps({name: answers(LIBRARIES[name][0]()) for name in sys.argv[1:] if installed(name)}))
