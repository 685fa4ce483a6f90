"""Uses of the public functions, which mypy checks strictly: what comes back is of the type of what went in."""

from typing import Any, assert_type

import numpy as np

import fastpool as fp

Float32 = np.dtype[np.float32]
Images = np.ndarray[tuple[int, int, int, int], Float32]
Argmax = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


class Tensor:
    """An array of another library."""

    shape: tuple[int, ...]
    dtype: str


def pools(images: Images, tensor: Tensor, flag: bool) -> None:
    assert_type(fp.max_pool2d(images, 2), Images)
    assert_type(fp.max_pool2d(images, (3, 3), stride=[2, 2], padding="same", return_argmax=False), Images)
    assert_type(fp.max_pool2d(images, 2, out=images), Images)
    _, argmax = fp.max_pool2d(images, 3, 2, 1, return_argmax=True)
    assert_type(argmax, Argmax)
    assert_type(fp.max_pool2d_backward(images, argmax, images.shape, 3, 2, 1), Images)
    assert_type(fp.max_pool1d(tensor, 2), Tensor)
    assert_type(fp.max_pool3d(tensor, 2, return_argmax=True), tuple[Tensor, Tensor])
    assert_type(fp.max_pool3d_backward(tensor, tensor, (1, 2, 3), 2), Tensor)
    assert_type(fp.max_pool1d([1, 3, 2], 2), Any)
    assert_type(fp.max_pool1d(images, 2, return_argmax=flag), Any)
    assert_type(fp.max_unpool2d(tensor, tensor, 2), Tensor)
    assert_type(fp.avg_pool2d(images, 3, 2, 1, False, False), Images)
    assert_type(fp.avg_pool1d(tensor, 2, divisor_override=3), Tensor)
    assert_type(fp.avg_pool3d([1.0], 2), Any)
    assert_type(fp.avg_pool2d_backward(images, images.shape, 3, 2, 1), Images)
    assert_type(fp.adaptive_avg_pool2d(tensor, (7, None)), Tensor)
    assert_type(fp.adaptive_max_pool2d_backward(images, argmax, images.shape), Images)
    assert_type(fp.global_avg_pool(tensor), Tensor)
    assert_type(fp.global_avg_pool_backward(tensor, (1, 2, 3)), Tensor)
    assert_type(fp.global_max_pool(tensor), Tensor)
    assert_type(fp.global_max_pool(tensor, return_argmax=True), tuple[Tensor, Tensor])
    assert_type(fp.global_max_pool_backward(tensor, tensor, (1, 2, 3)), Tensor)
    assert_type(fp.min_pool2d(images, 3, 2, 1, return_argmin=True), tuple[np.ndarray[Any, Any], Argmax])
    assert_type(fp.min_pool3d(tensor, 2), Tensor)
    assert_type(fp.min_pool1d_backward(images, argmax, images.shape, 2), Images)
    assert_type(fp.global_min_pool(tensor, return_argmin=True), tuple[Tensor, Tensor])


def other_ops(images: Images, tensor: Tensor) -> None:
    assert_type(fp.maximum_filter(images, 3, mode=("wrap", "reflect"), axes=(2, 3)), Images)
    assert_type(fp.moving_min(tensor, 3, axis=0), Tensor)
    assert_type(fp.morphology.white_tophat(images, fp.morphology.disk(3), axes=(2, 3)), Images)
    assert_type(fp.maxout(images, 4, axis=1), Images)
    assert_type(fp.maxout(tensor, 4, return_argmax=True), tuple[Tensor, Tensor])
    assert_type(fp.maxout_backward(tensor, tensor, (8,)), Tensor)
    assert_type(fp.hard_swish(tensor), Tensor)
    assert_type(fp.swish(images, 2.0, out=images), Images)
    assert_type(fp.hard_swish([1.0]), Any)
    assert_type(fp.swish_backward(images, images), Images)
    assert_type(fp.im2col(tensor, 3), Tensor)
    assert_type(fp.col2im(tensor, (1, 2, 3, 4), 3), Tensor)
    assert_type(fp.conv2d(tensor, tensor, padding=((1, 1), (0, 1))), Tensor)
    assert_type(fp.conv2d_backward(tensor, tensor, tensor), tuple[Tensor, Tensor, Tensor])


def wrong_uses(images: Images, tensor: Tensor) -> None:
    print(fp.max_pool2d(tensor, 2, return_argmax=True).shape)  # type: ignore[attr-defined]
    print(fp.max_pool2d(images, 2).missing)  # type: ignore[attr-defined]
    print(fp.max_pool2d_backward([1.0], images, (4,), 2))  # type: ignore[type-var]
    print(fp.hard_swish(tensor).missing)  # type: ignore[attr-defined]
