"""The suite that asv runs: a class for each op of the table of cases (`fastpool/cases.py`), and a few more.

asv runs this file, as it is now, against the fastpool of many commits. So the table and its arguments come from this
tree, not from the measured package, and no list of parameters depends on what can run: otherwise asv would mix up the
parameters of two commits. What cannot run raises NotImplementedError in `setup`, which asv shows as n/a.

asv takes a larger figure for a worse one, so everything that is tracked is worse when it is larger.

A sample is the minimum over many calls; each process that asv starts gives one. The calls of one process are not
independent: on a shared machine they are all slow or all fast. As separate samples they would show false differences.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastpool

# asv forks a process for every figure; Numba is imported before the fork. fastpool.backends() is called after it, since
# CUDA cannot be used in a child if it was initialised in the parent.
with suppress(ImportError):
    import numba  # noqa: F401

BACKENDS = ("numba", "cython", "cuda")
BASELINE = "numpy"
LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float32", "float16")
PLAIN = (LAYOUTS[0], DTYPES[0])
SMALL, MEDIUM, LARGE = "small", "medium", "full"  # some KB; some MB, where every core has work; tens of MB
SECONDS = 0.3  # for the calls of one sample

# asv's version of every benchmark here: results of another version are not shown. A class that measures something else
# than before gets a `version` of its own. asv's default is a digest of the source, which any change of it would change.
version = "1"

TREE = Path(__file__).resolve().parent.parent
_of_this_tree: dict[str, ModuleType] = {}


@contextmanager
def _this_tree() -> Iterator[None]:
    """Within it, fastpool is the package of this tree: the measured one may be too old for the table of cases."""
    if Path(fastpool.__file__).resolve().parent == TREE / "fastpool":
        yield
        return
    measured = _take_modules()
    sys.modules.update(_of_this_tree)
    sys.path.insert(0, str(TREE))
    try:
        yield
    finally:
        sys.path.remove(str(TREE))
        _of_this_tree.update(_take_modules())
        sys.modules.update(measured)


def _take_modules() -> dict[str, ModuleType]:
    """The modules of fastpool that are imported, removed from those that imports find."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "fastpool"}


with _this_tree():
    from fastpool import cases as _cases
    from fastpool.timing import copies, least_times

CASES = _cases.CASES
QUICK = tuple(name for name, case in CASES.items() if case.quick)


def _available(backend: str) -> None:
    """Say n/a where a backend cannot run."""
    status = fastpool.backends().get(backend)
    if status is None or not status.available:
        raise NotImplementedError(f"{backend}: {'not in this version' if status is None else status.reason}")


def _synchronise(backend: str) -> None:
    """Wait until the GPU has finished."""
    if backend == "cuda":
        from numba import cuda

        cuda.synchronize()


def _in_place(backend: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments in the memory of the backend: on the GPU for `cuda`."""
    if backend != "cuda":
        return arguments
    from numba import cuda

    return {name: cuda.to_device(a) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}


def _call(backend: str, case: Any, arguments: dict[str, Any], **more: Any) -> Callable[[], Any]:
    """The call of a case, which returns only when the work is done."""
    call = partial(getattr(fastpool, case.op), **arguments, **more, backend=backend)
    if backend != "cuda":
        return call

    def finished() -> Any:
        result = call()
        _synchronise(backend)
        return result

    return finished


def _arguments(case: Any, layout: str, dtype: str, size: str) -> dict[str, Any]:
    with _this_tree():
        return case.arguments(np.random.default_rng(0), dtype, size, layout)


@lru_cache(maxsize=1)
def _prepared(backend: str, name: str, layout: str, dtype: str, size: str) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The arguments of a case and its call. Cached, because asv sets up before every sample."""
    _available(backend)
    case = CASES[name]
    arguments = _arguments(case, layout, dtype, size)
    return arguments, _call(backend, case, _in_place(backend, arguments))


class _Least:
    """A benchmark whose time is the minimum of many calls: its `timer` advances by exactly that."""

    now = 0.0
    rounds, repeat, number, warmup_time = 3, 1, 1, 0
    timeout = 120

    @staticmethod
    def timer() -> float:
        return _Least.now

    @staticmethod
    def spend(call: Callable[[], Any]) -> None:
        _Least.now += least_times({"call": call}, SECONDS)["call"]


class _Calls(_Least):
    """One op, with or without argmax, over backends, shapes, layouts and dtypes."""

    cases: Mapping[str, Any] = {}
    param_names = ("backend", "call", "layout", "dtype")

    def setup(self, backend: str, call: str, layout: str, dtype: str) -> None:
        case = self.cases[call]
        if not case.quick and (layout, dtype) != PLAIN:
            raise NotImplementedError("timed only in the default layout and dtype")
        _, self.call = _prepared(backend, case.name, layout, dtype, MEDIUM)
        self.call()

    def time_call(self, *_: str) -> None:
        self.spend(self.call)


def _families(cases: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The cases of each benchmark class, by window and shape."""
    found: dict[str, dict[str, Any]] = {}
    for case in cases:
        label = case.name.removeprefix(case.op).strip()
        name = case.op
        for arg in ("argmax", "argmin"):
            if label.endswith(arg):
                name, label = f"{case.op}_{arg}", label.removesuffix(arg).strip()
        shape = f"({','.join(map(str, case.shape(MEDIUM)))})"
        found.setdefault(name, {})[f"{label} {shape}".strip()] = case
    return found


for _name, _members in _families(CASES.values()).items():
    globals()[_name] = type(
        _name,
        (_Calls,),
        {"__module__": __name__, "cases": _members, "params": (BACKENDS, tuple(_members), LAYOUTS, DTYPES)},
    )


class _Quick:
    """The typical calls, in the usual layout and dtype."""

    size = MEDIUM
    params = (BACKENDS, QUICK)
    param_names = ("backend", "call")
    timeout = 120

    def setup(self, backend: str, name: str) -> None:
        self.arguments, self.call = _prepared(backend, name, *PLAIN, self.size)
        self.call()


class tiny(_Quick, _Least):
    """The overhead of a call: a tiny array."""

    size = SMALL

    def time_call(self, *_: str) -> None:
        self.spend(self.call)


class against_numpy(_Quick):
    """The time of a call over that of the `numpy` backend, in turn in one process."""

    def track_ratio(self, backend: str, name: str) -> float:
        times = least_times({"call": self.call, BASELINE: _call(BASELINE, CASES[name], self.arguments)}, SECONDS)
        return times["call"] / times[BASELINE]

    track_ratio.unit = "of the baseline's time"


class against_copy(_Quick):
    """The time of a call with `out=` over that of a copy of as many bytes, in turn in one process."""

    size = LARGE

    def track_ratio(self, backend: str, name: str) -> float:
        result = self.call()
        inputs = [a for a in self.arguments.values() if isinstance(a, np.ndarray)]
        moved = sum(a.nbytes for a in (*inputs, *_cases.results(result)))
        call = _call(backend, CASES[name], _in_place(backend, self.arguments), out=result)
        copied = _device_copy(moved) if backend == "cuda" else copies(moved, fastpool.get_num_threads())
        times = least_times({"call": call, **copied}, SECONDS)
        return times.pop("call") / min(times.values())

    track_ratio.unit = "times the copy's time"


def _device_copy(moved: int) -> dict[str, Callable[[], Any]]:
    from numba import cuda

    source, target = (cuda.device_array(moved // 2, np.uint8) for _ in range(2))

    def copy() -> None:
        target.copy_to_device(source)
        _synchronise("cuda")

    return {"copy on the device": copy}


class memory(_Quick):
    """The peak memory of a process. The memory of a call is `call` less `nothing`."""

    def setup(self, backend: str, name: str) -> None:
        _available(backend)
        case = CASES[name]
        for size in (SMALL, LARGE):
            self.call = _call(backend, case, _in_place(backend, _arguments(case, *PLAIN, size)))
            if size == SMALL:
                self.call()  # a first call loads kernels and modules
        _forget_peak()

    def peakmem_call(self, *_: str) -> None:
        self.result = self.call()

    def peakmem_nothing(self, *_: str) -> None:
        pass


def _forget_peak() -> None:
    """Reset the peak (on Linux): making the arguments of a gradient takes more memory than the gradient."""
    if sys.platform.startswith("linux"):
        with suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)  # return freed memory, so that the call cannot reuse it unnoticed
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class importing:
    """The import in a fresh interpreter, with NumPy as the reference."""

    repeat = (3, 10, 5.0)
    timeout = 120

    def timeraw_fastpool(self) -> str:
        return "import fastpool"

    def timeraw_numpy(self) -> str:
        return "import numpy"


class first_call:
    """The first pool of a process: with its kernels on disk, built or cached, and with kernels that are compiled."""

    params = (BACKENDS,)
    param_names = ("backend",)
    repeat = (2, 5, 5.0)
    timeout = 120

    def setup(self, backend: str) -> None:
        _available(backend)

    def timeraw_warm(self, backend: str) -> tuple[str, str]:
        return f"fastpool.max_pool2d(x, 2, backend={backend!r})", _IMAGE

    def timeraw_cold(self, backend: str) -> tuple[str, str]:
        statement, image = self.timeraw_warm(backend)
        return statement, f"{_NO_CACHE}; {image}"


_NO_CACHE = (
    "import os, tempfile; folder = tempfile.TemporaryDirectory(); os.environ['NUMBA_CACHE_DIR'] = folder.name; "
    "os.environ['CUDA_CACHE_DISABLE'] = '1'; os.environ['FASTPOOL_KERNELS'] = 'jit'"
)
_IMAGE = "import numpy, fastpool; x = numpy.ones((1, 1, 64, 64), numpy.float32)"
_COMPILE = f"""
import contextlib, runpy
suite = runpy.run_path({__file__!r})
for name in suite["QUICK"]:
    with contextlib.suppress(AttributeError):  # an op that this version does not have
        suite["_prepared"]("numba", name, *suite["PLAIN"], suite["SMALL"])[1]()
"""


class kernels:
    """The number and size of the kernels that Numba compiles for the typical calls."""

    def setup_cache(self) -> dict[str, float]:
        _available("numba")
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "FASTPOOL_KERNELS": "jit"}
            subprocess.run([sys.executable, "-c", _COMPILE], env=environment, check=True)
            sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
        return {"number": len(sizes), "bytes": sum(sizes)}

    setup_cache.timeout = 300

    def track_number(self, compiled: dict[str, float]) -> float:
        return compiled["number"]

    def track_size(self, compiled: dict[str, float]) -> float:
        return compiled["bytes"]

    track_number.unit = "kernels"
    track_size.unit = "bytes"


class package:
    """The size of the wheel, and of the installed package."""

    @staticmethod
    def files() -> list[Path]:
        """The files in a wheel: sources, compiled modules and the kernels for each CPU level."""
        installed = sorted(Path(fastpool.__file__).parent.rglob("*"))
        return [
            path
            for path in installed
            if path.name.endswith((".py", "py.typed", *EXTENSION_SUFFIXES[:1])) or path.name.startswith("kernels.")
        ]

    def track_wheel_size(self) -> int:
        """The files of the package, compressed as in a wheel."""
        wheel = BytesIO()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in self.files():
                archive.write(path, path.relative_to(Path(fastpool.__file__).parent.parent))
        return len(wheel.getvalue())

    def track_installed_size(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    track_wheel_size.unit = track_installed_size.unit = "bytes"
