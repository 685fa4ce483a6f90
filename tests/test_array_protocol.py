"""Objects that NumPy converts, such as images of Pillow, are taken as NumPy takes them; results are NumPy arrays."""

from importlib.util import find_spec

import numpy as np
import pytest

import fastpool as fp
from fastpool import layers, morphology
from fastpool.identities import avg_pool2d_by_conv, max_pool2d_by_conv

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 24)).astype(np.uint8)


class Exporting:
    """Nothing but `__array__`, with the signature of NumPy 2."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class ExportingAsBeforeNumpy2(Exporting):
    def __array__(self, dtype=None):
        return self.a


class Interfaced:
    """Nothing but `__array_interface__`, as images of Pillow have it."""

    def __init__(self, a):
        self.a, self.__array_interface__ = a, a.__array_interface__


class Structured:
    """Nothing but `__array_struct__`."""

    def __init__(self, a):
        self.a, self.__array_struct__ = a, a.__array_struct__


def _calls_on_arrays():
    """The arguments of each public function that takes arrays, by its name."""
    found = {}
    for axes, x in {n: RNG.standard_normal((2, 3, *(6, 4, 6)[:n])).astype(np.float32) for n in (1, 2, 3)}.items():
        for extreme in ("max", "min"):
            pool = f"{extreme}_pool{axes}d"
            y, chosen = getattr(fp, pool)(x, 2, **{f"return_arg{extreme}": True})
            found |= {pool: (x, 2), f"{pool}_backward": (y, chosen, x.shape, 2)}
            found[f"{pool}_double_backward"] = x, chosen, 2
        y, argmax = getattr(fp, f"max_pool{axes}d")(x, 2, return_argmax=True)
        indices = fp.argmax_to_indices(argmax, x.shape, 2)
        found |= {f"max_unpool{axes}d": (y, indices, 2), f"max_unpool{axes}d_backward": (x, indices, 2)}
        found[f"nearest_unpool{axes}d"] = y, 2
        found |= {f"avg_pool{axes}d": (x, 2), f"avg_pool{axes}d_backward": (y, x.shape, 2)}
        adaptive = f"adaptive_max_pool{axes}d"
        y, indices = getattr(fp, adaptive)(x, 2, return_indices=True)
        found |= {adaptive: (x, 2), f"{adaptive}_backward": (y, indices, x.shape)}
        found |= {f"adaptive_avg_pool{axes}d": (x, 2), f"adaptive_avg_pool{axes}d_backward": (y, x.shape)}
        if axes > 1:
            fractional, samples = f"fractional_max_pool{axes}d", RNG.random((2, 3, axes)).astype(np.float32)
            y, indices = getattr(fp, fractional)(x, 2, 2, samples, return_indices=True)
            found |= {fractional: (x, 2, 2, samples), f"{fractional}_backward": (y, indices, x.shape)}
    x = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
    for extreme in ("max", "min"):
        y, chosen = getattr(fp, f"global_{extreme}_pool")(x, **{f"return_arg{extreme}": True})
        found |= {f"global_{extreme}_pool": (x,), f"global_{extreme}_pool_backward": (y, chosen, x.shape)}
        y, chosen = getattr(fp, f"{extreme}_pool")(x, (2, 2), **{f"return_arg{extreme}": True})
        found |= {f"{extreme}_pool": (x, (2, 2)), f"{extreme}_pool_backward": (y, chosen, x.shape, (2, 2))}
    found |= {"global_avg_pool": (x,), "global_avg_pool_backward": (fp.global_avg_pool(x), x.shape)}
    y, argmax = fp.maxout(x, 2, 1, return_argmax=True)
    found |= {"maxout": (x, 2, 1), "maxout_backward": (y, argmax, x.shape, 1)}
    found |= {"im2col": (x, 3), "col2im": (fp.im2col(x, 3), x.shape, 3)}
    w, b = RNG.standard_normal((5, 4, 3, 3)).astype(np.float32), np.ones(5, np.float32)
    found |= {"conv2d": (x, w, b), "conv2d_backward": (fp.conv2d(x, w, b), x, w)}
    for activation in ("hard_swish", "swish"):
        found |= {activation: (x,), f"{activation}_backward": (x, x)}
    _, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    indices = fp.argmax_to_indices(argmax, x.shape, 2)
    found |= {"argmax_to_indices": (argmax, x.shape, 2), "indices_to_argmax": (indices, x.shape, 2)}
    found |= {"maximum_filter": (IMAGE, None, morphology.disk(2)), "minimum_filter": (IMAGE, 3)}
    return found | {"moving_max": (IMAGE, 3), "moving_min": (IMAGE, 3)}


def _calls_on_images():
    """Those of the functions of other modules, by their names."""
    found = {pool.__name__: (pool, (IMAGE.astype(np.float32), 2)) for pool in (avg_pool2d_by_conv, max_pool2d_by_conv)}
    for name in sorted(set(morphology.__all__) - {"disk", "diamond", "box", "dilate_backward", "erode_backward"}):
        found[f"morphology.{name}"] = getattr(morphology, name), (IMAGE, morphology.disk(2))
    for name in ("dilate_backward", "erode_backward"):
        x = IMAGE.astype(np.float32)
        found[f"morphology.{name}"] = getattr(morphology, name), (x, x, morphology.disk(2))
    return found


ON_ARRAYS = _calls_on_arrays()
CALLS = {name: (getattr(fp, name), arguments) for name, arguments in ON_ARRAYS.items()} | _calls_on_images()


def results(call, *arguments):
    result = call(*arguments)
    return result if isinstance(result, tuple) else (result,)


def assert_same(got, expected):
    for g, e in zip(got, expected, strict=True):
        assert type(g) is np.ndarray
        assert g.dtype == e.dtype
        np.testing.assert_array_equal(g, e)


def test_each_public_function_is_called_here():
    without_arrays = {"backends", "use_backend", "set_num_threads", "get_num_threads", "morphology"}
    assert set(ON_ARRAYS) == set(fp.__all__) - without_arrays, "add the new function to _calls_on_arrays"


@pytest.mark.parametrize("exporter", [Exporting, ExportingAsBeforeNumpy2, Interfaced, Structured])
@pytest.mark.parametrize("name", CALLS)
def test_each_argument_may_be_an_object_that_numpy_converts(name, exporter):
    call, arguments = CALLS[name]
    wrapped = [exporter(a) if isinstance(a, np.ndarray) else a for a in arguments]
    assert_same(results(call, *wrapped), results(call, *arguments))


def test_so_may_a_mask():
    where = IMAGE > 50
    expected = fp.max_pool2d(IMAGE, 2, where=where)
    np.testing.assert_array_equal(fp.max_pool2d(Exporting(IMAGE), 2, where=Exporting(where)), expected)


def test_results_are_written_to_numpy_arrays_alone():
    x, out = Exporting(IMAGE), np.empty((8, 12), np.uint8)
    assert fp.max_pool2d(x, 2, out=out) is out
    np.testing.assert_array_equal(out, fp.max_pool2d(IMAGE, 2))
    with pytest.raises(TypeError, match="out must be a NumPy array, got Exporting"):
        fp.max_pool2d(IMAGE, 2, out=Exporting(out))
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        fp.max_pool2d(x, 1, out=IMAGE)


def test_layers_take_them():
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    for layer in (layers.Conv2D(x.shape[1:], 4, 3, rng=0), layers.MaxPool2D(x.shape[1:], 2), layers.HardSwish()):
        np.testing.assert_array_equal(layer.forward(Exporting(x)), layer.forward(x))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (np.ma.array(IMAGE, mask=IMAGE > 9), "x must not be a masked array"),  # as variables of netCDF4 give them
        (np.array([[1, None]]), "x must be bool, .*got object"),
        (np.array([["a", "b"]]), "x must be bool, .*got <U1"),
        (IMAGE.astype(np.complex64), "x must be bool, .*got complex64"),
        ([[1, 2]], r"x must be an array that can be read by its __array__, got .*Exporting \("),
    ],
    ids=["masked", "objects", "strings", "complex", "no array"],
)
def test_what_they_hold_must_be_supported(held, message):
    with pytest.raises(TypeError, match=message):
        fp.max_pool2d(Exporting(held), 1)


def test_an_error_of_the_conversion_names_the_argument_and_stays_the_cause():
    class OnADevice:
        """As arrays of CuPy, whose copies must be asked for."""

        def __array__(self, dtype=None, copy=None):
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    with pytest.raises(TypeError, match=r"x must be an array that .*OnADevice \(TypeError: Implicit conv") as raised:
        fp.max_pool2d(OnADevice(), 2)
    assert isinstance(raised.value.__cause__, TypeError)


def test_an_array_on_a_device_is_not_copied_to_main_memory():
    asked = []

    class OnGpu(Exporting):
        __cuda_array_interface__ = None

        def __array__(self, dtype=None, copy=None):
            asked.append(self)
            return self.a

    x = OnGpu(IMAGE)
    x.__cuda_array_interface__ = {"data": (0, False), "shape": IMAGE.shape, "typestr": "|u1", "version": 3}
    with pytest.raises((TypeError, RuntimeError), match=r"the address of its memory is 0|need numba-cuda"):
        fp.max_pool2d(x, 2)
    assert not asked


def test_a_masked_footprint_is_refused_in_any_wrapping():
    masked = np.ma.array(morphology.disk(1), mask=morphology.disk(1))
    for footprint in (masked, Exporting(masked)):
        with pytest.raises(TypeError, match="footprint must not be a masked array"):
            fp.maximum_filter(IMAGE, footprint=footprint)


WITHOUT_NUMBA = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite", "numba_cuda"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import jax.numpy as jnp
import fastpool as fp

y = fp.max_pool2d(jnp.arange(16.0).reshape(4, 4), 2, backend="numpy")
assert isinstance(y, jnp.ndarray), type(y)
print(y.tolist())
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.slow
def test_arrays_with_dlpack_in_main_memory_need_no_numba(python):
    """They were refused with: arrays on a GPU need numba-cuda."""
    assert "[[5.0, 7.0], [13.0, 15.0]]" in python("-c", WITHOUT_NUMBA, JAX_PLATFORMS="cpu")


# The libraries themselves


def pillow():
    from PIL import Image

    return Image.fromarray(IMAGE)


def xarray():
    import xarray

    return xarray.DataArray(IMAGE, dims=("y", "x"), coords={"x": np.linspace(0, 1, 24)})


def pandas():
    import pandas

    return pandas.DataFrame(IMAGE, columns=[f"column {n}" for n in range(24)])


def zarr():
    import zarr

    return zarr.array(IMAGE, chunks=(8, 8))


def h5py():
    import h5py

    file = h5py.File("in memory", "w", driver="core", backing_store=False)
    return file.create_dataset("image", data=IMAGE)


@pytest.mark.parametrize(
    ("make", "module"), [(pillow, "PIL"), (xarray, "xarray"), (pandas, "pandas"), (zarr, "zarr"), (h5py, "h5py")]
)
def test_arrays_of_the_library_are_taken(make, module):
    pytest.importorskip(module)
    x = make()
    assert_same(results(fp.max_pool2d, x, 3, 2, 1), results(fp.max_pool2d, IMAGE, 3, 2, 1))
    assert_same(results(fp.maximum_filter, x, 5), results(fp.maximum_filter, IMAGE, 5))
    footprint = morphology.disk(2)
    assert_same(results(morphology.opening, x, footprint), results(morphology.opening, IMAGE, footprint))
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    assert (type(y), type(argmax)) == (np.ndarray, np.ndarray)


def test_colours_and_bits_of_pillow_are_taken():
    image_module = pytest.importorskip("PIL.Image")
    colours = RNG.integers(0, 256, (8, 10, 3)).astype(np.uint8)
    y = fp.max_pool2d(image_module.fromarray(colours), 2, data_format="channels_last")
    np.testing.assert_array_equal(y, fp.max_pool2d(colours, 2, data_format="channels_last"))
    bits = image_module.fromarray(IMAGE).convert("1")
    assert fp.max_pool2d(bits, 2).dtype == bool
    np.testing.assert_array_equal(fp.max_pool2d(bits, 2), fp.max_pool2d(np.asarray(bits), 2))


def test_columns_of_pandas_are_taken_and_names_among_them_are_not():
    pandas = pytest.importorskip("pandas")
    prices = pandas.Series([1.0, 5.0, 2.0, 4.0], index=list("abcd"))
    np.testing.assert_array_equal(fp.moving_max(prices, 2, min_count=1), [1, 5, 5, 4])
    with pytest.raises(TypeError, match=r"x must be bool, .*got object"):
        fp.max_pool2d(pandas.DataFrame({"price": [1.0, 5.0], "name": ["a", "b"]}), 1)
