"""Where the numba backend's kernels come from: the library that was built with the package, or Numba."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from specimens import values

import fastpool as fp
from fastpool.backends import numpy as judge

pytest.importorskip("fastpool.backends.numba._launch")

from fastpool.backends.numba._launch import Call

from fastpool.backends.numba import _launch, encoding, library, plan, sources, tuning
from fastpool.backends.numba.binding import bound_call, kernel_name
from fastpool.backends.numba.encoding import encode
from fastpool.backends.numba.geometry import VECTOR_BYTES
from fastpool.backends.numba.launching import thread_scratch
from fastpool.backends.numba.plan.built import BUILT_DTYPES
from fastpool.build import FUNCTIONS_OF_C
from fastpool.window import Window

BUILT = [path for path in map(Path, map(library.library_path, library.levels_here())) if path.exists()]
of_the_library = pytest.mark.skipif(not BUILT, reason="no kernels were built")
of_each_library = pytest.mark.parametrize("built", BUILT, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def object_code():
    return pytest.importorskip("fastpool.backends.numba.object_code")


def test_every_kernel_is_built_with_the_package(object_code):
    from fastpool.backends.numba import kernels  # noqa: F401  each of its modules registers its kernels

    assert {call.kernel for call in plan.built_calls()} == set(object_code.KERNELS)


def test_the_arguments_of_every_kernel_fit_into_the_words_of_a_call():
    """Raise MOST_WORDS of _launch.pyx where they no longer do."""
    for call in plan.built_calls():
        itemsizes = tuple(0 if dtype is None else dtype.itemsize for dtype in call.dtypes)
        assert Call(0, itemsizes, encode(call.constants)[1], 1, 0, 0, None)


def test_a_kernel_is_made_of_the_modules_that_it_imports(object_code):
    """So that a changed module compiles these kernels anew, and no others."""

    def made_of(name):
        return {module.removeprefix("fastpool.backends.numba.") for module in sources.of_kernel(name)}

    every = [made_of(name) for name in map(kernel_name, plan.built_calls())]
    assert all(modules >= {"decorators", "encoding", "object_code"} for modules in every)
    direct = made_of("max_pool_direct__f4_f4_u1__n_u4_f4_Geometry_DirectTiling")
    assert direct >= {
        "fastpool._rules",
        "geometry",
        "kernels.direct",
        "kernels.windows",
        "simd.vectors",
        "tiling.forward",
    }
    assert not direct & {"kernels.separable", "kernels.col2im", "tiling.columns"}
    of_none = {module.removeprefix("fastpool.backends.numba.") for module in sources.of_kernels()}
    of_none = of_none.difference(*every)
    assert of_none == {"kernels", "simd"}, "packages"


def test_where_no_sources_are_installed_a_kernel_is_named_without_them(object_code, monkeypatch):
    monkeypatch.setattr(sources, "of_kernels", dict)
    name, processor = kernel_name(next(plan.built_calls())), object_code.this_processor()
    assert sources.of_kernel(name) == set()
    before = object_code.object_name(name, processor)
    assert before != object_code.object_name(name + "_", processor)
    monkeypatch.setattr(fp, "__version__", "another")
    assert object_code.object_name(name, processor) != before


def test_the_words_of_an_array_are_as_many_to_who_writes_and_to_who_reads_them():
    assert _launch.WORDS_OF_ARRAY == encoding.WORDS_OF_ARRAY


@of_each_library
def test_a_library_holds_every_kernel_that_is_built(built):
    functions = library.ctypes.CDLL(str(built))
    missing = {name for name in map(kernel_name, plan.built_calls()) if not hasattr(functions, name)}
    assert not missing


@of_each_library
def test_a_library_is_of_the_kernels_as_they_are_now(built, object_code):
    """`make kernels` builds that of this machine anew, `python -m fastpool.build LEVEL` another; or remove it."""
    functions = library.ctypes.CDLL(str(built))
    stored = library.ctypes.c_char_p.in_dll(functions, "fastpool_sources").value.decode()
    assert stored == object_code.digest_of_sources()
    assert library.ctypes.c_uint.in_dll(functions, "fastpool_calling_checksum").value == sources.calling_checksum()


@of_each_library
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not here")
def test_every_c_library_can_load_the_kernels(built):
    """They name no library, and no symbol of a version of one: the functions are those of the process."""
    command = ["readelf", "--wide", "--dynamic", "--dyn-syms", built]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in listed
    asked = {line.split()[7] for line in listed.splitlines() if " UND " in line and len(line.split()) > 7}
    assert asked <= {*FUNCTIONS_OF_C}


@of_each_library
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not here")
def test_no_kernel_stores_under_a_mask(built):
    """LLVM makes such stores of maxima in place. They are slow on AMD's processors."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", built]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"objdump is of another processor: {done.stderr.strip()}")
    code = done.stdout
    assert re.search(r"maxps|fmax", code)
    assert not re.findall(r"v\w*maskmov\w+ +%[xyz]mm\d+,%[xyz]mm\d+,.*\(.*", code)


INDICES = tuple(map(np.dtype, ("u1", "u2", "u4")))
POOLS = {
    "max_pool_separable": Window.plan(2, (9, 70), 3, 2, 1),
    "max_pool_van_herk": Window.plan(2, (2 * tuning.LEAST_TALL, tuning.LEAST_WIDE), tuning.LEAST_TALL, 1, 4),
    "max_pool_direct": Window.plan(2, (8, VECTOR_BYTES), (2, VECTOR_BYTES)),
}
POOLS_BACKWARD = {
    "max_pool_backward_nonoverlapping": Window.plan(2, (6, 70), 2),
    "max_pool_backward_gather": Window.plan(2, (9, 70), 3, 2, 1),
    "max_pool_backward_scatter": Window.plan(2, (9, 70), (tuning.MOST_GATHERED + 1, 1), 1, (tuning.MOST_GATHERED, 0)),
}


class Wide(Window):
    """Windows whose argmax is wider than it need be."""


def with_argmax_of(window, dtype):
    wide = Wide(*window)
    wide.__dict__["argmax_dtype"] = dtype  # in place of the cached property
    return wide


def run(planned, *arrays):
    bound_call(planned).run(thread_scratch(planned.scratch_bytes), 0, planned.items, *arrays)


def pooled(name, dtype, index):
    """The name of a pooling kernel, what it gives, and what NumPy does."""
    window = POOLS[name]
    planned = plan.max_pool(window, 1, 1, dtype, index, 1)
    assert planned.kernel == name
    x = values((1, *window.size, 1), dtype)
    got, expected = ([np.empty((1, *window.out, 1), d) for d in (dtype, index) if d] for _ in range(2))
    run(planned, x, *got)
    judge.max_pool(x, window, *expected, *[None] * (index is None))
    return kernel_name(planned), got, expected


def backpropagated(name, dtype, index):
    """The name of a kernel for gradients, what it gives, and what NumPy does."""
    window = with_argmax_of(POOLS_BACKWARD[name], index)
    planned = plan.max_pool_backward(window, 1, 1, dtype)
    assert planned.kernel == name
    rng = np.random.default_rng(0)
    dy = rng.integers(-3, 4, (1, *window.out, 1)).astype(dtype)
    argmax = np.empty(dy.shape, index)
    judge.max_pool(values((1, *window.size, 1), dtype), window, np.empty_like(dy), argmax)
    got, expected = np.empty((1, *window.size, 1), dtype), np.empty((1, *window.size, 1), dtype)
    run(planned, dy, argmax, got)
    judge.max_pool_backward(dy, argmax, window, expected)
    return kernel_name(planned), [got], [expected]


@of_the_library
def test_every_pooling_kernel_agrees_with_numpy():
    """Of each dtype and each argmax dtype, also those that only very large windows have."""
    done = set()
    problems = [(pooled, name, dtype, i) for name in POOLS for dtype in BUILT_DTYPES for i in (None, *INDICES)]
    floats = [dtype for dtype in BUILT_DTYPES if dtype.kind == "f"]
    problems += [(backpropagated, name, dtype, i) for name in POOLS_BACKWARD for dtype in floats for i in INDICES]
    for of, *problem in problems:
        name, got, expected = of(*problem)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
        done.add(name)
    every = {name for name in map(kernel_name, plan.built_calls()) if name.startswith("max_pool")}
    assert done == {name for name in every if "by_tables" not in name}, "see test_adaptive.py"


@of_the_library
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_argmax_of_each_dtype_is_validated(index):
    window = POOLS["max_pool_separable"]
    centre = window.volume // 2
    argmax = np.full((1, *window.out, 1), centre, index)
    for last, invalid in ((centre, 0), (window.volume, 1)):
        argmax.reshape(-1)[-1], found = last, np.zeros(1, np.uint8)
        run(plan.validate_argmax(window, 1, 1, index), argmax, found)
        assert found[0] == invalid


def test_a_processor_is_asked_for_no_more_than_the_system_says_it_can():
    if library.native_level() in ("", "aarch64") or sys.platform != "linux":
        pytest.skip("is about x86-64 and Linux")
    flags = set(re.search(r"flags\s*:(.*)", Path("/proc/cpuinfo").read_text())[1].split())
    third = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm"} <= flags
    fourth = third and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    assert library.native_level() == ("x86-64-v4" if fourth else "x86-64-v3")
    assert library.levels_here() == (("x86-64-v4", "x86-64-v3") if fourth else ("x86-64-v3",))
    assert third


def test_names_tell_kernels_apart():
    window = fp.window.Window.plan(2, (8, 8), 3, 1, 1)
    pooled = plan.max_pool(window, 1, 1, np.dtype("f4"), np.dtype("u1"), 1)
    assert kernel_name(pooled) == "max_pool_separable__f4_f4_u1__n_u4_f4_Geometry_SeparableTiling"
    half = plan.max_pool(window, 1, 1, np.dtype("f2"), None, 1)
    assert kernel_name(half) == "max_pool_separable__i2_i2_none__i2_u2_i2_Geometry_SeparableTiling"
    assert kernel_name(plan.min_pool(window, 1, 1, np.dtype("f2"), None, 1)) == kernel_name(half)
    assert kernel_name(plan.activation("swish", np.dtype("f2"), 3)) == "swish__i2_i2_f8__i2"


CALLS = """
import numpy as np, fastpool as fp
rng = np.random.default_rng(0)
x = rng.standard_normal((2, 3, 9, 11), np.float32)
y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
cols = fp.im2col(x, 3)
results = [
    y, argmax, fp.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1), cols, fp.col2im(cols, x.shape, 3),
    fp.hard_swish(x), fp.hard_swish_backward(x, x), fp.swish(x), fp.swish_backward(x, x), fp.maxout(x, 3, axis=1),
    fp.avg_pool2d(x, 3, 2, 1), fp.avg_pool2d_backward(x, (2, 3, 18, 22), 2), fp.global_avg_pool(x.astype(np.float16)),
    fp.max_pool2d((100 * x).astype(np.int16), 2), fp.max_pool2d(x.astype(np.float16), 2),
]
import hashlib, sys
digest = hashlib.sha256(b"".join(a.tobytes() for a in results)).hexdigest()
print(digest, "numba" in sys.modules, "llvmlite" in sys.modules)
"""
ALONE = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None  # neither is installed\n"


@of_the_library
def test_the_library_needs_no_numba_and_gives_the_bits_that_numba_gives(python, object_code):
    built, *imported = python("-c", CALLS, FASTPOOL_BACKEND="numba").split()
    assert imported == ["False", "False"]
    assert python("-c", ALONE + CALLS, FASTPOOL_BACKEND="numba").split()[0] == built
    chosen = {"NUMBA_CPU_NAME": library.level().replace("aarch64", "generic"), "NUMBA_CPU_FEATURES": ""}
    compiled = python("-c", CALLS, FASTPOOL_BACKEND="numba", FASTPOOL_KERNELS="jit", **chosen).split()
    assert compiled == [built, "True", "True"]


EVERY_CASE = """
import sys
import numpy as np
from fastpool.cases import CASES, results
from fastpool.timing import HALF_ROUNDING, agree
dtypes = [np.dtype(code) for code in "?bBhHiIqQefd"]
try:
    from ml_dtypes import bfloat16
    dtypes.append(np.dtype(bfloat16))
except ImportError:
    pass
done = set()
for case in CASES.values():
    for dtype in filter(case.takes_dtype, dtypes):
        for layout in ("channels_first", "channels_last"):
            arguments = case.arguments(np.random.default_rng(0), dtype, "small", layout)
            result, expected = case.run(arguments, "numba"), case.run(arguments, "numpy")
            assert agree(results(result), results(expected), case.exact, HALF_ROUNDING), (case.name, dtype, layout)
            done.add(case.op)
print(len(done) == len({case.op for case in CASES.values()}))
"""


@of_the_library
def test_every_op_on_every_dtype_needs_the_library_alone(python):
    assert python("-W", "error", "-c", ALONE + EVERY_CASE) == "True\n"


@of_the_library
def test_a_kernel_that_is_not_there_and_cannot_be_compiled_is_named(python):
    code = """
from fastpool.backends.numba import library
try:
    library.find("max_pool_direct__f2_f2__n")
except RuntimeError as error:
    print(error)
"""
    said = python("-c", ALONE + code)
    assert said.startswith("no kernel max_pool_direct__f2_f2__n: it is not among those for ")
    assert said.endswith('; remedy: pip install "fastpool[numba]"\n')


@pytest.mark.skipif(not library.native_level(), reason="no library is built for this machine")
def test_a_build_names_the_compiler_that_is_missing_before_it_compiles(python, tmp_path):
    here, build = library.native_level(), ("-m", "fastpool.build", "--objects", tmp_path / "objects")
    said = python(*build, fails=True, CC="no-such-cc")
    assert said.endswith(f"error: no-such-cc, which links the library for {here}, is not installed\n")
    other, machine = ("x86-64-v3", "x86_64") if here == "aarch64" else ("aarch64", "aarch64")
    said = python(*build, here, other, fails=True, PATH=tmp_path)
    assert f"for {here}" in said
    shutil.copy(shutil.which("true"), tmp_path / "cc")
    said = python(*build, here, other, fails=True, PATH=tmp_path, CC="cc")
    assert said.endswith(f"error: {machine}-linux-gnu-gcc, which links the library for {other}, is not installed\n")
    assert not (tmp_path / "objects").exists()


LEVEL = """
import sys, warnings
from fastpool.backends.numba import library, sources
library.FOLDER, library.levels_here = sys.argv[1], lambda: tuple(sys.argv[2].split())
sources.calling_checksum = lambda: 0
if "any" in sys.argv:
    library._opened = lambda path: path
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    levels = {library.level() for _ in range(2)}
print(*levels, *(f"{each.category.__name__}: {each.message}" for each in told), sep="\\n")
"""


def test_the_level_is_chosen_by_the_environment(python, tmp_path):
    third, fourth, other = "x86-64-v3", "x86-64-v4", "aarch64"

    def level(asked, processor, *built):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name in built:
            (folder / f"kernels.{name}.so").touch()
        return python("-c", LEVEL, folder, processor, "any", FASTPOOL_KERNELS=asked)[:-1]

    both = f"{fourth} {third}"
    assert level(None, both, third, fourth, other) == level("", both, third, fourth, other) == fourth
    assert level(fourth, both, third, fourth) == fourth
    assert level(fourth, both, third) == third
    assert level(fourth, third, third, fourth) == third
    assert level(third, both, third, fourth) == third
    assert level(third, both, fourth) == ""
    assert level(other, both, third, fourth, other) == ""
    assert level(other, other, third, fourth, other) == other
    assert level("jit", both, third, fourth) == ""
    assert level(None, "", third, fourth, other) == ""


def test_a_level_that_there_is_not_is_refused(python):
    call = "import fastpool; fastpool.hard_swish([1.0])"
    said = python("-c", call, FASTPOOL_KERNELS="fast", FASTPOOL_BACKEND=None, fails=True)
    assert "ValueError: FASTPOOL_KERNELS must be one of 'x86-64-v4', 'x86-64-v3', 'aarch64', 'jit', got 'fast'" in said


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are built for Linux")
def test_a_library_that_does_not_load_is_warned_of_once_and_the_next_one_taken(python, tmp_path):
    """As on a file system that is mounted with noexec, or half copied."""
    broken = tmp_path / "kernels.x86-64-v4.so"
    broken.write_bytes(b"half a library")
    level, warning = python("-c", LEVEL, tmp_path, "x86-64-v4 x86-64-v3").split("\n", 1)
    assert level == ""
    assert warning.startswith(f"RuntimeWarning: fastpool goes without {broken}: ")
    assert warning.count("RuntimeWarning") == 1
    if BUILT:
        shutil.copy(BUILT[-1], tmp_path / "kernels.x86-64-v3.so")
        assert python("-c", LEVEL, tmp_path, "x86-64-v4 x86-64-v3").split("\n")[0] == "x86-64-v3"


@of_the_library
def test_a_library_that_is_called_in_another_way_is_not_taken(python):
    """Kernels of other versions may write beyond the scratch that they are given."""
    code = """
import warnings
from fastpool.backends.numba import library, sources
sources.calling_checksum = lambda: 1
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print([library.level()], {str(each.message).partition(": ")[2] for each in told})
"""
    assert python("-c", code) == (
        "[''] {'it was built for other versions of the plans that call its kernels: build it again'}\n"
    )
