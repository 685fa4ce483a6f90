"""The peers: the ops of fastpool in other libraries, written as their users would write them.

A peer is a class with one method per family of ops (`Task.family`). The method takes a problem and yields a candidate
for each variant: its name, the call to time, and a function that converts the call's result to the form of
`Problem.comparable`. It yields nothing where the library lacks the op, the layout or the dtype. An instance imports its
library.

To add a peer, write its class and add it to LIBRARIES.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import product
from shutil import which
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.rows import MOST_VISITS, Problem

Candidate = tuple[str, Callable[[], Any], Callable[[Any], tuple[np.ndarray, ...]]]
Candidates = Iterator[Candidate]


def _alone(result: Any) -> tuple[np.ndarray, ...]:
    return (np.asarray(result),)


def _is_centred(p: Problem) -> bool:
    """Whether a pool is a morphological dilation: stride 1, each window centred on its output, the size kept."""
    kernel, stride, padding = p.task.window
    return stride == 1 and kernel == 2 * padding + 1 and not p.task.argmax


def _is_one_plane(p: Problem) -> bool:
    return p.task.axes == 2 and p.task.shape[:2] == (1, 1)


class Torch:
    """PyTorch's operators in both memory formats, without autograd."""

    name, package = "torch", "torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.aten, self.functional = torch, torch.ops.aten, torch.nn.functional

    def _tensor(self, a: np.ndarray) -> Any:
        """The same memory as a tensor."""
        if a.dtype.name == "bfloat16":
            return self.torch.from_numpy(a.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(a)

    def _array(self, t: Any) -> np.ndarray:
        if t.dtype == self.torch.bfloat16:
            return t.view(self.torch.int16).numpy().view("bfloat16")
        return t.numpy()

    def _alone(self, t: Any) -> tuple[np.ndarray, ...]:
        return (self._array(t),)

    def _formats(self, p: Problem) -> Iterator[tuple[str, Callable[[np.ndarray], Any]]]:
        """The memory formats by name, each with a function that copies an array into it."""
        yield "NCHW", lambda a: self._tensor(np.ascontiguousarray(a))
        # 1-D has no channels_last. PyTorch refuses it for 1-byte dtypes whose planes have over 127 elements.
        if p.task.axes > 1 and p.x.dtype.itemsize > 1:
            yield (
                "channels_last",
                lambda a: self._tensor(np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)),
            )

    def max_pool(self, p: Problem) -> Candidates:
        if p.task.visits > MOST_VISITS:
            return
        if p.task.argmax:
            pool = partial(getattr(self.functional, f"max_pool{p.task.axes}d"), return_indices=True)
        else:
            pool = getattr(self.torch, f"max_pool{p.task.axes}d")
        for name, tensor in self._formats(p):
            call = partial(pool, tensor(p.x), *p.task.window)
            yield name, call, (lambda r: (r[0].numpy(), p.at(r[1].numpy()))) if p.task.argmax else self._alone

    def min_pool(self, p: Problem) -> Candidates:
        pool = getattr(self.torch, f"max_pool{p.task.axes}d")
        for name, tensor in self._formats(p):
            x = tensor(p.x)
            yield name, (lambda x=x: -pool(-x, *p.task.window)), self._alone

    def max_pool_backward(self, p: Problem) -> Candidates:
        axes = max(p.task.axes, 2)  # PyTorch's gradient in one dimension is that of an image of one row
        kernel, stride, padding = (
            ([one] * (axes - p.task.axes) + [n] * p.task.axes) for n, one in zip(p.task.window, (1, 1, 0), strict=True)
        )
        forward = getattr(self.aten, f"max_pool{axes}d_with_indices")
        backward = getattr(self.aten, f"max_pool{axes}d_with_indices_backward")
        for name, tensor in self._formats(p):
            x, dy = tensor(p.x), tensor(p.dy)
            if p.task.axes == 1:
                x, dy = x.unsqueeze(2), dy.unsqueeze(2)
            _, indices = forward(x, kernel, stride, padding)
            call = partial(backward, dy, x, kernel, stride, padding, [1] * axes, False, indices)
            yield name, call, lambda dx: (dx.numpy().reshape(p.task.shape),)

    def avg_pool(self, p: Problem) -> Candidates:
        pool = getattr(self.functional, f"avg_pool{p.task.axes}d")
        for name, tensor in self._formats(p):
            yield name, partial(pool, tensor(p.x), *p.task.window), self._alone

    def adaptive_max_pool(self, p: Problem) -> Candidates:
        pool = getattr(self.functional, f"{p.task.family}{p.task.axes}d")
        for name, tensor in self._formats(p):
            yield name, partial(pool, tensor(p.x), p.task.window[0]), self._alone

    adaptive_avg_pool = adaptive_max_pool

    def avg_pool_backward(self, p: Problem) -> Candidates:
        kernel, stride, padding = ([n] * p.task.axes for n in p.task.window)
        backward = getattr(self.aten, f"avg_pool{p.task.axes}d_backward")
        for name, tensor in self._formats(p):
            call = partial(backward, tensor(p.dy), tensor(p.x), kernel, stride, padding, False, True, None)
            yield name, call, self._alone

    def maxout(self, p: Problem) -> Candidates:
        x, axis = self._tensor(p.x_pieces), p.piece_axis
        if p.task.argmax:
            yield "", partial(self.torch.max, x, axis), lambda r: (r[0].numpy(), p.at(r[1].numpy()))
            return
        yield "amax", partial(self.torch.amax, x, axis), self._alone
        yield "maximum", lambda: reduce(self.torch.maximum, x.unbind(axis)), self._alone

    def maxout_backward(self, p: Problem) -> Candidates:
        x, axis, dy = self._tensor(p.x_pieces), p.piece_axis, self._tensor(p.dy)
        backward = self.aten.value_selecting_reduction_backward
        call = partial(backward, dy, axis, x.max(axis).indices, list(x.shape), False)
        yield "", call, lambda dx: (dx.numpy().reshape(p.task.shape),)

    def im2col(self, p: Problem) -> Candidates:
        kernel, stride, padding = p.task.window
        unfold = partial(self.functional.unfold, kernel_size=kernel, padding=padding, stride=stride)
        yield "", partial(unfold, self._tensor(p.x)), self._alone

    def col2im(self, p: Problem) -> Candidates:
        kernel, stride, padding = p.task.window
        fold = partial(self.functional.fold, kernel_size=kernel, padding=padding, stride=stride)
        yield "", partial(fold, self._tensor(p.cols), p.task.shape[2:]), self._alone

    def hard_swish(self, p: Problem) -> Candidates:
        yield "", partial(self.functional.hardswish, self._tensor(p.x)), self._alone

    def swish(self, p: Problem) -> Candidates:
        yield "", partial(self.functional.silu, self._tensor(p.x)), self._alone

    def hard_swish_backward(self, p: Problem) -> Candidates:
        yield "", partial(self.aten.hardswish_backward, self._tensor(p.dy), self._tensor(p.x)), self._alone

    def swish_backward(self, p: Problem) -> Candidates:
        yield "", partial(self.aten.silu_backward, self._tensor(p.dy), self._tensor(p.x)), self._alone


class TorchCompile:
    """PyTorch's operators compiled by torch.compile for the shapes of each row; it needs a C++ compiler."""

    name, package = "torch.compile", "torch"

    def __init__(self, threads: int) -> None:
        self.eager = Torch(threads)

    def _compiled(self, candidates: Candidates) -> Candidates:
        if which(os.environ.get("CXX", "g++")) is None:
            return
        torch = self.eager.torch
        torch.compiler.reset()  # of the shapes of the row before
        for variant, call, read in candidates:
            function, (x, *others), options = call.func, call.args, call.keywords
            compiled = torch.compile(lambda x, f=function, a=others, k=options: f(x, *a, **k), dynamic=False)
            yield variant, partial(compiled, x), read

    def max_pool(self, p: Problem) -> Candidates:
        return self._compiled(self.eager.max_pool(p))

    def maxout(self, p: Problem) -> Candidates:
        candidates = (c for c in self.eager.maxout(p) if isinstance(c[1], partial))
        return self._compiled(candidates)

    def hard_swish(self, p: Problem) -> Candidates:
        return self._compiled(self.eager.hard_swish(p))

    def swish(self, p: Problem) -> Candidates:
        return self._compiled(self.eager.swish(p))


class OnnxRuntime:
    """A model of one MaxPool node on the CPU provider."""

    name, package = "onnxruntime", "onnxruntime"

    def __init__(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.runtime, self.threads = onnx, onnxruntime, threads

    def max_pool(self, p: Problem) -> Candidates:
        if p.task.channels_last or p.x.dtype.name not in ("float32", "float64", "int8", "uint8"):
            return
        if p.task.visits > MOST_VISITS:
            return
        kernel, stride, padding = p.task.window
        helper, axes = self.onnx.helper, p.task.axes
        onnx_dtype = helper.np_dtype_to_tensor_dtype(p.x.dtype)
        results = {"y": onnx_dtype, "indices": self.onnx.TensorProto.INT64} if p.task.argmax else {"y": onnx_dtype}
        node = helper.make_node(
            "MaxPool",
            ["x"],
            list(results),
            kernel_shape=axes * [kernel],
            strides=axes * [stride],
            pads=2 * axes * [padding],
        )
        y_shape = (*p.task.shape[:2], *p.task.out_space)
        graph = helper.make_graph(
            [node],
            "pool",
            [helper.make_tensor_value_info("x", onnx_dtype, p.task.shape)],
            [helper.make_tensor_value_info(name, of, y_shape) for name, of in results.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = self.runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        read = (lambda r: (r[0], p.x.ravel()[r[1]])) if p.task.argmax else tuple
        yield "", partial(session.run, None, {"x": p.x}), read


class OpenVino:
    """A model of one MaxPool node, compiled for latency; inputs and outputs are shared, not copied."""

    name, package = "openvino", "openvino"

    def __init__(self, threads: int) -> None:
        import openvino

        self.openvino, self.core = openvino, openvino.Core()
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def max_pool(self, p: Problem) -> Candidates:
        # With indices it runs a reference implementation, at some 40 ns per element of a window.
        most = MOST_VISITS // 20 if p.task.argmax else MOST_VISITS
        if p.task.channels_last or p.x.dtype.name not in ("float32", "int8", "uint8") or p.task.visits > most:
            return
        kernel, stride, padding = (p.task.axes * [n] for n in p.task.window)
        x = self.openvino.opset8.parameter(p.task.shape, p.x.dtype)
        if p.task.argmax:
            ones = p.task.axes * [1]
            y = self.openvino.opset8.max_pool(x, stride, ones, padding, padding, kernel, index_element_type="i64")
        else:
            y = self.openvino.opset1.max_pool(x, stride, padding, padding, kernel)
        model = self.openvino.Model(y.outputs(), [x])
        request = self.core.compile_model(model, "CPU", self.settings).create_infer_request()
        call = partial(request.infer, {0: p.x}, share_inputs=True, share_outputs=True)
        read = (lambda r: (r[0], p.x.ravel()[r[1]])) if p.task.argmax else (lambda r: (r[0],))
        yield "", call, read


class Jax:
    """Compiled by XLA for each shape. XLA reads its number of threads once, from the environment."""

    name, package = "jax", "jax"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("NPROC", str(threads))
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_platforms", "cpu")
        self.jax = jax

    def _candidate(self, function: Callable[..., Any], *inputs: np.ndarray, read: Any = _alone) -> Candidate:
        compiled, arrays = self.jax.jit(function), [self.jax.numpy.asarray(a) for a in inputs]
        return "", lambda: self.jax.block_until_ready(compiled(*arrays)), read

    def _gradient(self, function: Callable[..., Any], p: Problem, read: Any = _alone) -> Candidate:
        def backward(dy: Any, x: Any) -> Any:
            return self.jax.vjp(function, x)[1](dy)[0]

        return self._candidate(backward, p.to_layout(p.dy), p.to_layout(p.x), read=read)

    def _pool(self, p: Problem) -> Callable[[Any], Any]:
        def over_space(n: Any, other: Any) -> tuple:
            space = p.task.axes * (n,)
            return (other, *space, other) if p.task.channels_last else (other, other, *space)

        kernel, stride, padding = p.task.window
        lowest = -np.inf if p.x.dtype.kind not in "iu" else np.iinfo(p.x.dtype).min
        return lambda x: self.jax.lax.reduce_window(
            x,
            np.array(lowest, p.x.dtype),
            self.jax.lax.max,
            over_space(kernel, 1),
            over_space(stride, 1),
            over_space((padding, padding), (0, 0)),
        )

    def max_pool(self, p: Problem) -> Candidates:
        if not p.task.argmax and p.task.visits <= MOST_VISITS:
            yield self._candidate(self._pool(p), p.to_layout(p.x), read=lambda y: (p.to_channels_first(np.asarray(y)),))

    def max_pool_backward(self, p: Problem) -> Candidates:
        yield self._gradient(self._pool(p), p, read=lambda dx: (p.to_channels_first(np.asarray(dx)),))

    def maxout(self, p: Problem) -> Candidates:
        numpy, axis = self.jax.numpy, p.piece_axis
        if p.task.argmax:
            read = lambda r: (np.asarray(r[0]), p.at(np.asarray(r[1])))  # noqa: E731
            yield self._candidate(lambda x: (x.max(axis), numpy.argmax(x, axis)), p.x_pieces, read=read)
        else:
            yield self._candidate(lambda x: x.max(axis), p.x_pieces)

    def maxout_backward(self, p: Problem) -> Candidates:
        yield self._gradient(lambda x: x.reshape(p.x_pieces.shape).max(p.piece_axis), p)

    def im2col(self, p: Problem) -> Candidates:
        kernel, stride, padding = p.task.window
        patches = partial(
            self.jax.lax.conv_general_dilated_patches,
            filter_shape=p.task.axes * (kernel,),
            window_strides=p.task.axes * (stride,),
            padding=p.task.axes * [(padding, padding)],
        )
        yield self._candidate(lambda x: patches(x).reshape(p.call().shape), p.x)

    def hard_swish(self, p: Problem) -> Candidates:
        yield self._candidate(self.jax.nn.hard_swish, p.x)

    def swish(self, p: Problem) -> Candidates:
        yield self._candidate(self.jax.nn.swish, p.x)

    def hard_swish_backward(self, p: Problem) -> Candidates:
        yield self._gradient(self.jax.nn.hard_swish, p)

    def swish_backward(self, p: Problem) -> Candidates:
        yield self._gradient(self.jax.nn.swish, p)


class Thinc:
    """The operations of spaCy's library; one thread. Its maxout always returns the argmax."""

    name, package = "thinc", "thinc"

    def __init__(self, threads: int) -> None:
        from thinc.backends import NumpyOps

        self.ops = NumpyOps()

    def _takes(self, p: Problem) -> bool:
        return p.task.grouping == "contiguous" and len(p.task.shape) == 2 and p.task.dtype == "float32"

    def maxout(self, p: Problem) -> Candidates:
        if self._takes(p):
            read = (lambda r: (r[0], p.at(r[1]))) if p.task.argmax else (lambda r: (r[0],))
            yield "", partial(self.ops.maxout, p.x_pieces), read

    def maxout_backward(self, p: Problem) -> Candidates:
        if self._takes(p):
            _, which = self.ops.maxout(p.x_pieces)
            call = partial(self.ops.backprop_maxout, p.dy, which, p.task.pieces)
            yield "", call, lambda dx: (dx.reshape(p.task.shape),)

    def hard_swish(self, p: Problem) -> Candidates:
        yield "", partial(self.ops.hard_swish_mobilenet, p.x), _alone

    def swish(self, p: Problem) -> Candidates:
        yield "", partial(self.ops.swish, p.x), _alone

    def hard_swish_backward(self, p: Problem) -> Candidates:
        yield "", partial(self.ops.backprop_hard_swish_mobilenet, p.dy, p.x), _alone

    def swish_backward(self, p: Problem) -> Candidates:
        yield "", partial(self.ops.backprop_swish, p.dy, p.x, self.ops.swish(p.x)), _alone


class OpenCv:
    """Dilation of one plane."""

    name, package = "opencv", "cv2"

    def __init__(self, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        self.cv2 = cv2

    def max_pool(self, p: Problem) -> Candidates:
        if _is_centred(p) and _is_one_plane(p):
            window = np.ones(2 * [p.task.window[0]], np.uint8)
            yield "", partial(self.cv2.dilate, p.x[0, 0], window), lambda y: (y[None, None],)

    def maximum_filter(self, p: Problem) -> Candidates:
        if _is_one_plane(p):
            window = p.task.footprint.astype(np.uint8)
            yield "", partial(self.cv2.dilate, p.x[0, 0], window), lambda y: (y[None, None],)


class SciPy:
    """The maximum filter; one thread."""

    name, package = "scipy", "scipy"

    def __init__(self, threads: int) -> None:
        from scipy import ndimage

        self.ndimage = ndimage

    def max_pool(self, p: Problem) -> Candidates:
        if _is_centred(p):
            size = (1, 1, *p.task.axes * [p.task.window[0]])
            yield "", partial(self.ndimage.maximum_filter, p.x, size, mode="constant", cval=-np.inf), _alone

    def maximum_filter(self, p: Problem) -> Candidates:
        if p.task.visits <= MOST_VISITS or not p.task.disk:
            footprint = p.task.footprint[None, None]
            yield "", partial(self.ndimage.maximum_filter, p.x, footprint=footprint), _alone


class ScikitImage:
    """block_reduce where the windows tile the array, else the dilation of one plane; one thread."""

    name, package = "scikit-image", "skimage"

    def __init__(self, threads: int) -> None:
        from skimage import measure, morphology

        self.block_reduce, self.morphology = measure.block_reduce, morphology

    def max_pool(self, p: Problem) -> Candidates:
        kernel, stride, padding = p.task.window
        tiles = kernel == stride and not padding and not any(s % kernel for s in p.task.shape[2:])
        if tiles and not p.task.argmax:
            yield "", partial(self.block_reduce, p.x, (1, 1, *p.task.axes * [kernel]), np.max), _alone
        elif _is_centred(p) and _is_one_plane(p):
            window = self.morphology.footprint_rectangle((kernel, kernel), decomposition="separable")
            yield "", partial(self.morphology.dilation, p.x[0, 0], window), lambda y: (y[None, None],)


class NumPy:
    """One or two lines of NumPy: maxima of slices, views of windows; one thread."""

    name, package = "numpy", "numpy"

    def __init__(self, threads: int) -> None:
        pass

    def _padded(self, p: Problem, value: float) -> np.ndarray:
        _, _, padding = p.task.window
        x = p.to_layout(p.x)
        space = p.task.axes * [(padding, padding)]
        pad = [(0, 0), *space, (0, 0)] if p.task.channels_last else [(0, 0), (0, 0), *space]
        return p.to_channels_first(np.pad(x, pad, constant_values=value)) if padding else p.x

    def max_pool(self, p: Problem) -> Candidates:
        if p.task.argmax or p.task.visits > MOST_VISITS or p.x.dtype.name == "bfloat16":
            return
        kernel, stride, _ = p.task.window
        lowest = -np.inf if p.x.dtype.kind == "f" else np.iinfo(p.x.dtype).min

        slices = [[slice(i, i + stride * (n - 1) + 1, stride) for i in range(kernel)] for n in p.task.out_space]
        taps = [(..., *each) for each in product(*slices)]

        def pool() -> np.ndarray:
            x = self._padded(p, lowest)
            return reduce(np.maximum, (x[tap] for tap in taps))

        yield "", pool, _alone

    def maxout(self, p: Problem) -> Candidates:
        x, axis = p.x_pieces, p.piece_axis
        if p.task.argmax:
            yield "", lambda: (x.max(axis), x.argmax(axis)), lambda r: (r[0], p.at(r[1]))
        else:
            pieces = np.moveaxis(x, axis, 0)
            yield "", lambda: reduce(np.maximum, pieces), _alone

    def im2col(self, p: Problem) -> Candidates:
        kernel, stride, _ = p.task.window
        n, channels = p.task.shape[:2]

        def columns() -> np.ndarray:
            windows = sliding_window_view(self._padded(p, 0), (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
            return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, channels * kernel**2, -1)

        yield "", columns, _alone

    def hard_swish(self, p: Problem) -> Candidates:
        yield "", lambda: p.x * np.clip(p.x + 3, 0, 6) / 6, _alone

    def swish(self, p: Problem) -> Candidates:
        yield "", lambda: p.x / (1 + np.exp(-p.x)), _alone


LIBRARIES = (Torch, TorchCompile, OnnxRuntime, OpenVino, Jax, Thinc, OpenCv, SciPy, ScikitImage, NumPy)
