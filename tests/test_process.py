"""What a call does to the process it runs in: threads, forks, other users of Numba, imports, files. Each in its own."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import fastpool as fp
import fastpool.backends as registry

ROOT = Path(__file__).resolve().parent.parent
WITH_NUMBA = find_spec("numba") is not None
LAYERS = ("omp", "workqueue", "tbb") if WITH_NUMBA else ("none",)
FORKS = hasattr(os, "fork") and sys.platform != "darwin"

needs_numba = pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-")
needs_compiler = pytest.mark.skipif(not WITH_NUMBA, reason="Numba is not installed")
needs_fork = pytest.mark.skipif(not FORKS, reason="this system does not fork")

WORK = """
import os, sys, threading, time
import numpy as np
import fastpool as fp
fp.set_num_threads(4)
x = np.random.default_rng(0).integers(-99, 100, (4, 16, 128, 128)).astype(np.float32)
def work(backend=None):
    y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True, backend=backend)
    return y, argmax, fp.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1, backend=backend)
expected = work("numpy")
def right():
    return all(np.array_equal(got, e) for got, e in zip(work(), expected))
def in_threads(n, function):
    results = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(n)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(results) == n, "a thread died"
    return results
def in_a_fork(function, limit=40):
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "the child hangs"
"""


@cache
def _why_not(layer):
    """Why a threading layer of Numba's does not load here, or nothing."""
    if not WITH_NUMBA:
        return ""
    code = (
        "import numba, numpy as np\n"
        "@numba.njit(parallel=True)\n"
        "def f(a):\n"
        "    for i in numba.prange(a.size): a[i] = i\n"
        "f(np.zeros(9))\n"
        "print(numba.threading_layer())\n"
    )
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode == 0 and done.stdout.strip() == layer:
        return ""
    return f"{layer} does not load: {done.stderr.strip().splitlines()[-1:]}"


@pytest.fixture(params=LAYERS)
def layer(request):
    if _why_not(request.param):
        pytest.skip(_why_not(request.param))
    return request.param


@pytest.fixture
def work(python, layer):
    """Run code after WORK on a threading layer; what it printed."""

    def run(code):
        return python("-W", "ignore", "-c", WORK + code, NUMBA_THREADING_LAYER=layer, FASTPOOL_BACKEND=None)

    return run


@needs_numba
class TestThreads:
    def test_32_threads_at_once_all_get_the_right_result(self, work):
        assert work("print(all(in_threads(32, lambda: right() and right())))") == "True\n"

    def test_32_threads_at_once_may_be_the_first_to_call(self, work):
        """Compiling, reading the cache and starting the layer all at once."""
        assert work("print(all(in_threads(32, right)))") == "True\n"

    @needs_compiler
    def test_the_users_own_parallel_kernel_runs_beside_ours(self, work):
        code = """
import numba
@numba.njit(parallel=True, nogil=True)
def mine(a):
    total = 0
    for i in numba.prange(a.size):
        total += a[i]
    return total
numbers = np.arange(200_000)
stop, sums = threading.Event(), []
def loop():
    while not stop.is_set() or not sums:
        sums.append(mine(numbers))
mine(numbers)
user = threading.Thread(target=loop)
user.start()
ours = in_threads(4, lambda: all(right() for _ in range(10)))
stop.set()
user.join()
print(all(ours), set(map(int, sums)) == {numbers.sum()})
"""
        assert work(code) == "True True\n"


@needs_numba
@needs_fork
class TestForks:
    def test_a_child_forked_after_use_computes_and_exits(self, work):
        assert work("print(right(), in_a_fork(right), right())") == "True 0 True\n"

    def test_a_child_forked_before_use_computes_and_exits(self, work):
        assert work("print(in_a_fork(right), right())") == "0 True\n"

    def test_a_child_of_a_child_computes_and_exits(self, work):
        assert work("print(right(), in_a_fork(lambda: right() and in_a_fork(right) == 0))") == "True 0\n"

    def test_threads_of_a_forked_child_compute(self, work):
        assert work("print(right(), in_a_fork(lambda: all(in_threads(4, right))))") == "True 0\n"

    def test_multiprocessing_workers_compute_after_use_in_the_parent(self, work):
        code = """
import multiprocessing
def job(_):
    return right()
right()
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(job, range(4)).get(60))
"""
        assert work(code) == "[True, True, True, True]\n"

    def test_children_forked_while_other_threads_compute_are_right_too(self, work):
        code = """
stop = threading.Event()
def loop():
    good = right()
    while not stop.is_set():
        good = right() and good
    return good
right()
results = []
threads = [threading.Thread(target=lambda: results.append(loop())) for _ in range(3)]
for t in threads: t.start()
children = []
for _ in range(5):
    time.sleep(0.02)
    children.append(in_a_fork(right))
stop.set()
for t in threads: t.join()
print(children, results)
"""
        assert work(code) == "[0, 0, 0, 0, 0] [True, True, True]\n"

    def test_children_forked_during_the_first_call_of_another_thread_compute_and_exit(self, python):
        """Each of 16 moments in a process of its own, in which nothing has been imported for a call yet."""
        code = """
def fork_after(seconds):
    caller = threading.Thread(target=right)
    caller.start()
    time.sleep(seconds)
    code = in_a_fork(right, 60)
    caller.join()
    return code == 0 and right()
def first_call():
    start = time.monotonic()
    right()
    with open(sys.argv[1], "w") as file:
        file.write(str(time.monotonic() - start))
    return True
for _ in range(2):  # what the first compiles is kept
    in_a_fork(first_call, 200)
whole = float(open(sys.argv[1]).read())
print([in_a_fork(lambda: fork_after(whole * moment / 16), 120) for moment in range(16)])
"""
        with tempfile.NamedTemporaryFile() as file:
            assert python("-W", "ignore", "-c", WORK + code, file.name, FASTPOOL_BACKEND=None) == f"{[0] * 16}\n"


# A kernel that is quickly compiled, in the place of those of `work`.
QUICK = """
swished = fp.hard_swish(x, backend="numpy")
def right():
    return np.allclose(fp.hard_swish(x), swished, rtol=1e-6)
"""
FAILING = """
import sys
def first_call(fails):
    try:
        fails()
    except (RecursionError, OSError, ImportError, TimeoutError) as error:
        print(type(error).__name__, file=sys.stderr)
    return fp.backends()["numba"].available and right()
"""


@needs_compiler
@needs_fork
class TestFirstCallsThatCompile:
    """Each in a process of its own, in which Numba has not been imported yet, and where no kernels are kept."""

    @pytest.fixture
    def jit(self, python, tmp_path):
        (tmp_path / "file").touch()
        settings = {"NUMBA_CACHE_DIR": tmp_path / "file", "FASTPOOL_BACKEND": None, "FASTPOOL_KERNELS": "jit"}
        return lambda code: python("-W", "ignore", "-c", WORK + QUICK + code, **settings)

    def test_32_threads_may_be_the_first_to_call(self, jit):
        assert jit("print(all(in_threads(32, right)))") == "True\n"

    @pytest.mark.slow
    def test_children_forked_meanwhile_compute_and_exit(self, jit):
        """The child of a process whose other thread compiles compiles, too."""
        code = """
def fork_after(seconds):
    caller = threading.Thread(target=right)
    caller.start()
    time.sleep(seconds)
    code = in_a_fork(right, 60)
    caller.join()
    return code == 0 and right()
print([in_a_fork(lambda: fork_after(moment / 4), 120) for moment in range(6)])
"""
        assert jit(code) == f"{[0] * 6}\n"

    @pytest.mark.slow
    def test_a_call_that_is_interrupted_while_it_compiles_does_no_harm(self, jit):
        code = """
import signal
class Interrupt(Exception):
    pass
def interrupt(*_):
    raise Interrupt
def interrupted(seconds):
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        right()
    except Interrupt:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    return right() and in_a_fork(right) == 0
print([in_a_fork(lambda: interrupted(0.05 + moment / 4), 120) for moment in range(6)])
"""
        assert jit(code) == f"{[0] * 6}\n"


@needs_fork
def test_a_fork_while_another_thread_imports_a_package_that_logs(python):
    """The import has one of our locks and asks for that of logging, while the fork asks for both."""
    code = """
import os, threading, time
from fastpool import threads
lock, logging_begins = threading.RLock(), threading.Event()
threads.hold_across_forks(lock)
def import_a_package():
    threads.fork_before_logging()
    import logging
    with lock:
        logging_begins.set()
        time.sleep(0.5)
        logging.getLogger("a package")
thread = threading.Thread(target=import_a_package)
thread.start()
logging_begins.wait()
child = os.fork()
if child == 0:
    os._exit(0 if lock.acquire(blocking=False) else 1)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python("-c", code, timeout=60) == "0\n"


@needs_numba
@needs_fork
class TestFirstCallsThatFail:
    """Each in a process of its own. What a call lacks at one moment is not held against the backend afterwards."""

    @pytest.fixture(params=["built", pytest.param("jit", marks=needs_compiler)])
    def first_call(self, request, python):
        """Run code whose `right` is a first call of kernels that were built, or that are compiled and kept."""

        def run(code, *arguments):
            jit = request.param == "jit"
            code = WORK + (QUICK if jit else "") + FAILING + code
            kernels = "jit" if jit else os.environ.get("FASTPOOL_KERNELS")
            return python("-c", code, *map(str, arguments), FASTPOOL_BACKEND="numba", FASTPOOL_KERNELS=kernels)

        return run

    @pytest.mark.parametrize("depth", [20, 60, 80, 100, 120, 140, 160, 250])
    @pytest.mark.slow
    def test_near_the_limit_of_recursion(self, depth, first_call):
        code = """
def deep(n):
    return deep(n - 1) if n else right()
print(first_call(lambda: deep(sys.getrecursionlimit() - int(sys.argv[1]))))
"""
        assert first_call(code, depth) == "True\n"

    @pytest.mark.parametrize("files", [0, 30, 100, 200])
    @pytest.mark.slow
    def test_with_too_many_open_files(self, files, first_call):
        code = """
import errno
left = int(sys.argv[1])
def allow(event, arguments):
    global left
    if event == "open":
        left -= 1
        if left == -1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
sys.addaudithook(allow)
print(first_call(right))
"""
        assert first_call(code, files) == "True\n"

    @pytest.mark.parametrize("moment", range(6))
    @pytest.mark.slow
    def test_interrupted_by_a_signal_handler_that_raises(self, moment, first_call):
        code = """
import signal
def interrupt(*_):
    raise TimeoutError("the caller's own")
def interrupted():
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02 + 0.2 * int(sys.argv[1]))
    try:
        fp.backends()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
print(first_call(interrupted))
"""
        assert first_call(code, moment) == "True\n"


@needs_numba
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.slow
def test_torture(python):
    """`make torture` goes on for minutes."""
    seconds = os.environ.get("FASTPOOL_TORTURE_SECONDS", "10")
    assert "all right" in python("tests/torture.py", "0", seconds, timeout=900 + int(seconds), FASTPOOL_BACKEND=None)


@pytest.fixture
def flaky(monkeypatch, tmp_path):
    """A backend that imports a part of itself and then fails as it is told; and how often it was tried."""
    (tmp_path / "flaky").mkdir()
    (tmp_path / "flaky" / "__init__.py").write_text("import flaky.part, told\nflaky.part.tried(), told.what_to_do()\n")
    (tmp_path / "flaky" / "part.py").write_text("import told\ntried = told.tried\n")
    told, tries = ModuleType("told"), []
    told.tried = lambda: tries.append(1)
    monkeypatch.setitem(sys.modules, "told", told)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._MODULES, "flaky", "flaky")
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    yield told, tries
    for name in ("flaky", "flaky.part"):
        sys.modules.pop(name, None)


def fails_with(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("maximum recursion depth exceeded"),
        MemoryError("no more"),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "flaky/part.py"),
        ImportError(f"libflaky.so: cannot open shared object file: {os.strerror(errno.EMFILE)}"),
        ImportError(f"libflaky.so: failed to map segment: {os.strerror(errno.ENOMEM)}"),
        DeprecationWarning("an error, by the filters"),
        KeyboardInterrupt(),
        SystemExit(),
    ],
    ids=repr,
)
def test_a_failure_that_may_pass_is_raised_and_the_backend_tried_again(error, flaky):
    told, tries = flaky
    told.what_to_do = fails_with(error)
    for _ in range(2):
        with pytest.raises(type(error)) as raised, fp.use_backend("flaky"):
            pass
        assert raised.value is error
    with pytest.raises(type(error)):
        fp.backends()
    told.what_to_do = lambda: None
    assert fp.backends()["flaky"].available
    assert len(tries) == 4


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'llvmlite'"),
        ImportError("Numba needs NumPy 2.4 or less"),
        OSError("Could not find/load shared object file 'libllvmlite.so'"),
        AttributeError("module 'numpy' has no attribute 'long'"),
        RuntimeError("no device"),
    ],
    ids=repr,
)
def test_a_lasting_failure_is_the_reason_why_the_backend_is_not_available(error, flaky):
    told, tries = flaky
    told.what_to_do = fails_with(error)
    reason = f"{type(error).__name__}: {error}; remedy: reinstall fastpool"
    for _ in range(2):
        assert fp.backends()["flaky"] == (False, reason)
        with pytest.raises(RuntimeError, match="cannot run here"):
            fp.use_backend("flaky")
    assert len(tries) == 1


def test_a_backend_loads_where_no_more_threads_start(flaky):
    told, tries = flaky
    told.what_to_do = lambda: None
    before = threading.stack_size(1 << 45)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        assert fp.backends()["flaky"].available
    finally:
        threading.stack_size(before)
    assert len(tries) == 1


def test_a_backend_that_cannot_be_used_is_refused_by_the_call_of_use_backend():
    with pytest.raises(ValueError, match="backend must be one of 'numba', "):
        fp.use_backend("abacus")


def test_use_backend_holds_inside_its_block_and_decorates_functions():
    @fp.use_backend("naive")
    def inside():
        return registry.chosen(None)

    before = registry.chosen(None)
    assert inside() == inside() == "naive"
    with fp.use_backend("numpy"):
        assert inside() == "naive"
        assert registry.chosen(None) == "numpy"
    assert registry.chosen(None) == before


@needs_compiler
def test_the_workers_number_and_configuration_of_numba_stay_as_they_were(python):
    code = """
import numba
def settings():
    from numba import config
    return {k: v for k, v in vars(config).items() if k.isupper()}, numba.get_num_threads()
import numba.core.config
before = settings()
assert right()
fp.set_num_threads(1)
assert right()
print(settings() == before)
"""
    assert python("-c", WORK + code, NUMBA_NUM_THREADS=4, FASTPOOL_BACKEND=None) == "True\n"


def test_importing_brings_in_no_package_but_numpy(python):
    code = "import sys, {}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    with_numpy = set(python("-c", code.format("numpy")).split())
    with_fastpool = set(python("-c", code.format("fastpool")).split())
    assert with_fastpool - with_numpy - set(sys.stdlib_module_names) == {"fastpool"}


@needs_numba
def test_a_backend_is_imported_as_any_package_beside_the_function_of_that_name(python):
    code = """
import fastpool.backends.numba as one
import fastpool.backends.numba
from fastpool.backends.numba import max_pool
from fastpool import backends
print(one is fastpool.backends.numba, one.max_pool is max_pool, backends()["numpy"], fastpool.backends() == backends())
"""
    assert python("-c", code) == "True True BackendStatus(available=True, reason='') True\n"


BARE = """
import os, sys, warnings
os.environ["FASTPOOL_KERNELS"] = "jit"
sys.modules["numba"] = sys.modules["fastpool.backends._columns"] = None  # neither is installed
import fastpool as fp
def calls(**how):
    return fp.max_pool1d([1, 3, 2, 5], 2, **how).tolist(), fp.hard_swish([3.0], **how).tolist()
"""


class TestFallingBackToNumpy:
    def test_it_is_told_once(self, python):
        code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(calls() == calls() == ([3, 5], [3.0]))
print(*[f"{w.category.__name__}: {w.message}" for w in caught], sep="\\n")
"""
        right, *told = python("-c", BARE + code, FASTPOOL_BACKEND=None).splitlines()
        assert right == "True"
        assert len(told) == 1
        assert told[0].startswith("RuntimeWarning: fastpool takes its numpy backend, which is many times slower")
        assert 'remedy: pip install "fastpool[numba]"' in told[0]
        assert "FASTPOOL_BACKEND=numpy" in told[0]

    def test_where_warnings_are_errors_calls_raise_it_and_work_afterwards(self, python):
        code = """
with warnings.catch_warnings():
    warnings.simplefilter("error")
    for _ in range(2):
        try:
            calls()
        except RuntimeWarning:
            print("raised")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(calls(), len(caught))
"""
        assert python("-c", BARE + code, FASTPOOL_BACKEND=None) == "raised\nraised\n([3, 5], [3.0]) 1\n"

    def test_numpy_asked_for_by_name_is_no_news(self, python):
        code = """
print(calls(backend="numpy"))
with fp.use_backend("numpy"):
    print(calls())
"""
        both = "([3, 5], [3.0])\n" * 2
        assert python("-W", "error", "-c", BARE + code, FASTPOOL_BACKEND=None) == both
        assert python("-W", "error", "-c", BARE + "print(calls())\n" * 2, FASTPOOL_BACKEND="numpy") == both


def test_a_call_of_the_numpy_backend_does_not_import_numba(python):
    code = """
import sys, fastpool
fastpool.max_pool1d([1, 2], 2, backend="numpy")
print({"numba", "fastpool.backends.numba"} & {*sys.modules})
"""
    assert python("-c", code, FASTPOOL_BACKEND=None) == "set()\n"


# The cache of compiled kernels

CACHED = """
import os
os.environ["FASTPOOL_KERNELS"] = "jit"
import numpy as np
import fastpool as fp
from fastpool.backends.numba import cache_directory
x = np.array([-9, 0, 3, 12], np.float32)
print(fp.hard_swish(x).tolist() == [0, 0, 3, 12] and fp.hard_swish_backward(x, x).tolist() == [0, 0, 3, 12])
print(cache_directory())
"""


def files_under(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def filled(python, tmp_path_factory):
    """A cache that a first process has filled."""
    folder = tmp_path_factory.mktemp("cache")
    right, directory = python("-c", CACHED, NUMBA_CACHE_DIR=folder, FASTPOOL_BACKEND=None).split("\n")[:2]
    assert right == "True"
    assert Path(directory).is_relative_to(folder)
    return folder


@pytest.fixture
def cached(filled, tmp_path):
    return Path(shutil.copytree(filled, tmp_path / "cache"))


@needs_compiler
class TestCache:
    def test_a_second_process_compiles_nothing(self, python, cached):
        before = {p: p.stat().st_mtime_ns for p in files_under(cached)}
        assert before
        assert python("-c", CACHED, NUMBA_CACHE_DIR=cached, FASTPOOL_BACKEND=None).startswith("True")
        assert {p: p.stat().st_mtime_ns for p in files_under(cached)} == before

    @pytest.mark.parametrize("damage", ["emptied", "cut in half", "garbled", "one byte changed", "swapped"])
    @pytest.mark.slow
    def test_damaged_files_do_no_harm(self, damage, python, cached):
        files = files_under(cached)
        contents = [p.read_bytes() for p in files]
        for path, content, other in zip(files, contents, contents[1:] + contents[:1], strict=True):
            at = len(content) * 2 // 3
            path.write_bytes(
                {
                    "emptied": b"",
                    "cut in half": content[: len(content) // 2],
                    "garbled": bytes(255 - b for b in content),
                    "one byte changed": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
                    "swapped": other,
                }[damage]
            )
        assert python("-c", CACHED, NUMBA_CACHE_DIR=cached, FASTPOOL_BACKEND=None).startswith("True")

    def test_processes_starting_cold_at_once_all_work(self, tmp_path):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        environment.pop("FASTPOOL_BACKEND", None)
        command = [sys.executable, "-c", CACHED]
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for process in started:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
            assert out.startswith("True")

    def test_nothing_is_left_behind_but_whole_files(self, python, cached):
        """A temporary file of a process that was killed stays out of the way."""
        (cached / "fastpool-kernels" / f"{'0' * 40}.kernel.{'0' * 16}.tmp").write_bytes(b"half a kern")
        assert python("-c", CACHED, NUMBA_CACHE_DIR=cached, FASTPOOL_BACKEND=None).startswith("True")

    @pytest.mark.slow
    def test_kernels_with_checks_of_bounds_are_not_kept(self, python, tmp_path):
        """They refer to functions of Numba's that only a process has which compiles: another one crashed."""
        code = """
import sys
import numpy as np
from fastpool.backends.numba import plan
from fastpool.backends.numba.binding import bound_call
sys.unraisablehook = lambda unraisable: print(unraisable.exc_value)
call = bound_call(plan.max_unpool(1, 1, 2, 1, np.dtype("f4")))
no_values, x = np.zeros(0, np.float32), np.zeros(2, np.float32)
call.run(np.empty(0, np.uint8), 0, 1, no_values, np.array([1]), x)
print(x[1])
"""
        settings = {"NUMBA_CACHE_DIR": tmp_path, "NUMBA_BOUNDSCHECK": 1, "FASTPOOL_KERNELS": "jit"}
        for _ in range(2):
            assert python("-c", code, **settings) == "index is out of bounds\n0.0\n"

    @pytest.mark.slow
    def test_it_works_where_nothing_can_be_written(self, python, tmp_path):
        """Neither the home, nor the install, nor the folder asked for: files stand where folders would be made."""
        nowhere = tmp_path / "a file"
        nowhere.touch()
        install = tmp_path / "install"
        shutil.copytree(ROOT / "fastpool", install / "fastpool", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in [install / "fastpool", *(p for p in (install / "fastpool").rglob("*") if p.is_dir())]:
            (folder / "__pycache__").touch()
        out = python(
            "-c",
            CACHED + "print(fp.__file__)",
            cwd=install,
            HOME=nowhere,
            XDG_CACHE_HOME=nowhere,
            LOCALAPPDATA=nowhere,
            NUMBA_CACHE_DIR=None,
            FASTPOOL_BACKEND=None,
        )
        right, directory, where = out.split("\n")[:3]
        assert right == "True"
        assert not Path(directory).exists()
        assert Path(where).is_relative_to(install)


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")
class TestWhoseKernelsAreRead:
    @pytest.fixture
    def disk_cache(self):
        from fastpool.backends import disk_cache

        disk_cache.remove_old.cache_clear()
        return disk_cache

    def test_files_made_under_any_umask_are_for_others_to_read_and_not_to_write(self, disk_cache, tmp_path):
        before = os.umask(0)
        try:
            assert disk_cache.write(str(tmp_path / "a" / "b"), "0" * 40 + ".kernel", b"x") == ""
        finally:
            os.umask(before)
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "a").rglob("*")}
        assert modes == {"b": 0o755, "0" * 40 + ".kernel": 0o644}

    def test_a_folder_that_others_can_write_to_is_neither_read_nor_written(self, disk_cache, tmp_path):
        (tmp_path / "k.kernel").write_bytes(b"x")
        assert disk_cache.read(str(tmp_path), "k.kernel") == b"x"
        for mode in (0o777, 0o1777, 0o775):
            tmp_path.chmod(mode)
            assert disk_cache.read(str(tmp_path), "k.kernel") is None
            assert "others can write" in disk_cache.write(str(tmp_path), "l.kernel", b"x")
        assert [p.name for p in tmp_path.iterdir()] == ["k.kernel"]

    def test_a_file_that_others_can_write_to_and_a_link_are_not_read(self, disk_cache, tmp_path):
        (tmp_path / "k.kernel").write_bytes(b"x")
        (tmp_path / "l.kernel").symlink_to(tmp_path / "k.kernel")
        assert disk_cache.read(str(tmp_path), "l.kernel") is None
        (tmp_path / "k.kernel").chmod(0o666)
        assert disk_cache.read(str(tmp_path), "k.kernel") is None

    @pytest.mark.skipif("os.geteuid() != 0", reason="only root can give files away")
    def test_what_belongs_to_another_user_is_not_read_and_nothing_is_made_there(self, disk_cache, tmp_path):
        (tmp_path / "k.kernel").write_bytes(b"x")
        os.chown(tmp_path / "k.kernel", 4321, 4321)
        assert disk_cache.read(str(tmp_path), "k.kernel") is None
        os.chown(tmp_path, 4321, 4321)
        assert "another user" in disk_cache.write(str(tmp_path / "new"), "k.kernel", b"x")
        assert not (tmp_path / "new").exists()

    def test_a_folder_that_cannot_be_written_is_read(self, disk_cache, tmp_path, monkeypatch):
        (tmp_path / "k.kernel").write_bytes(b"x")
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        assert "cannot be written" in disk_cache.write(str(tmp_path), "l.kernel", b"x")
        assert disk_cache.read(str(tmp_path), "k.kernel") == b"x"

    @pytest.mark.parametrize("below", ["", "a folder", "a folder/another"])
    def test_a_path_to_a_file_or_below_it_is_neither_read_nor_written(self, below, disk_cache, tmp_path):
        (tmp_path / "file").touch()
        folder = str(tmp_path / "file" / below)
        for why in (disk_cache.why_not_read(folder), disk_cache.why_not_written(folder)):
            assert why == f"{tmp_path / 'file'} is not a folder"

    def test_a_folder_where_nobody_may_write_is_not_written(self, disk_cache, tmp_path):
        """Root is told so too: the system lets it write to /proc, and then makes nothing there."""
        tmp_path.chmod(0o555)
        assert "nobody may write" in disk_cache.why_not_written(str(tmp_path / "new"))
        if sys.platform == "linux":
            assert disk_cache.why_not_written("/proc/nope") == "nobody may write to /proc (mode 0555)"

    def test_kernels_not_used_for_long_are_removed_and_other_files_are_not(self, disk_cache, tmp_path):
        old, new = (c * 40 + ".kernel" for c in "ab")
        for name in (old, "mine.txt"):
            (tmp_path / name).write_bytes(b"x")
            os.utime(tmp_path / name, (0, 0))
        disk_cache.write(str(tmp_path), new, b"x")
        assert sorted(p.name for p in tmp_path.iterdir()) == [new, "mine.txt"]

    @pytest.mark.parametrize("setting", ["OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT"])
    def test_a_setting_of_numba_that_changes_the_code_names_another_file(self, setting, monkeypatch):
        import numba

        from fastpool.backends.numba.object_code import object_name, this_processor

        before = object_name("hard_swish__f4_f4__n", this_processor())
        monkeypatch.setattr(numba.config, setting, 77)
        assert object_name("hard_swish__f4_f4__n", this_processor()) != before

    @pytest.mark.slow
    def test_a_call_whose_kernel_cannot_be_kept_warns_and_works_where_warnings_are_errors(self, python, tmp_path):
        (tmp_path / "file").touch()
        once = "import sys; sys.stderr = sys.stdout\n" + CACHED
        out = python("-c", once, NUMBA_CACHE_DIR=tmp_path / "file", FASTPOOL_BACKEND=None)
        assert out.count("are not kept for later processes") == 1
        out = python("-W", "error", "-c", CACHED, NUMBA_CACHE_DIR=tmp_path / "file", FASTPOOL_BACKEND=None)
        assert out.startswith("True")

    @pytest.mark.skipif("os.geteuid() != 0", reason="only root can run a process of another user")
    def test_a_cache_that_root_has_filled_serves_another_user(self, filled, python):
        """As in a container image. The home of this user does not exist."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            shutil.copytree(filled, folder, dirs_exist_ok=True)
            os.chmod(folder, 0o755)
            code = """
import os, numba
from fastpool.backends import kept_code
from fastpool.backends.numba import just_in_time
numba.njit(lambda x: x + 1)(1)  # brings in what another user may not be able to import
os.setgid(4321), os.setuid(4321)
kept_code._keep = lambda *_: print("compiled")
"""
            out = python("-c", code + CACHED, NUMBA_CACHE_DIR=folder, FASTPOOL_BACKEND=None, HOME=folder)
            assert out.startswith("True"), out

    @pytest.mark.slow
    def test_kernels_of_other_settings_stand_beside_the_usual_ones(self, python, filled, tmp_path):
        cached = Path(shutil.copytree(filled, tmp_path / "cache"))
        before = files_under(cached)
        out = python("-c", CACHED, NUMBA_CACHE_DIR=cached, FASTPOOL_BACKEND=None, NUMBA_OPT=1)
        assert out.startswith("True")
        assert len(files_under(cached)) == 2 * len(before)

    def test_the_folder_is_absolute_and_a_tilde_is_the_home(self, python, tmp_path):
        code = """
import os
from fastpool.backends.numba import cache_directory
first = cache_directory()
os.chdir("/")
print(first == cache_directory(), first)
"""
        for chosen in ("~/kernels", "kernels"):
            out = python("-c", code, cwd=tmp_path, PYTHONPATH=ROOT, HOME=tmp_path, NUMBA_CACHE_DIR=chosen)
            assert out == f"True {tmp_path}/kernels/fastpool-kernels\n"

    def test_without_a_home_nothing_is_kept_in_the_current_folder(self, python, tmp_path):
        variables = {"HOME": ".", "XDG_CACHE_HOME": "cache", "NUMBA_CACHE_DIR": None, "FASTPOOL_BACKEND": None}
        out = python("-W", "ignore", "-c", CACHED, cwd=tmp_path, **variables, PYTHONPATH=ROOT)
        assert out == "True\n\n"
        assert not files_under(tmp_path)


NEAR_THE_LIMIT = """
import resource
import numpy as np, fastpool as fp
fp.backends()  # imports Numba
x = np.zeros(8, np.float32)
now = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
limits = resource.getrlimit(resource.RLIMIT_AS)
for more in range(0, 600, 25):
    resource.setrlimit(resource.RLIMIT_AS, (now + (more << 20), limits[1]))
    try:
        fp.hard_swish(x)
    except MemoryError as error:
        print("refused", error)
    else:
        break
resource.setrlimit(resource.RLIMIT_AS, limits)
print(fp.hard_swish(x).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_first_call_near_the_limit_of_memory_raises_and_the_process_lives_on(python):
    """LLVM ended it, with std::bad_alloc; and the start of a thread without memory was waited for, for ever."""
    pytest.importorskip("numba")
    out = python("-c", NEAR_THE_LIMIT, FASTPOOL_BACKEND="numba", FASTPOOL_KERNELS="jit", timeout=300)
    assert out.startswith("refused a package is imported, or a kernel compiled, only where 64 MB")
    assert "refused a kernel is loaded or compiled only where 256 MB" in out
    assert out.endswith("(8,)\n")


FORKS_OF_A_FILTER = """
import os, signal, sys, time
from threading import Thread
import numpy as np
import fastpool as fp
fp.set_num_threads(3)
x, footprint = np.random.default_rng(0).random((800, 800)), fp.morphology.disk(9)
y = fp.maximum_filter(x, footprint=footprint)
going = True

def run():
    while going:
        fp.maximum_filter(x, footprint=footprint)

thread = Thread(target=run, daemon=True)
thread.start()
for _ in range(8):
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        assert (fp.maximum_filter(x, footprint=footprint) == y).all()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
going = False
thread.join()
"""


@needs_fork
def test_a_child_forked_while_another_thread_filters_ends(python):
    """At its end it waited for threads of its parent."""
    python("-W", "ignore", "-c", FORKS_OF_A_FILTER)


INTERRUPTED_SHARES = """
import random
import signal
from time import sleep
from fastpool.threads import run_in_threads


class Timeout(RuntimeError):
    pass


def raises(*_):
    raise Timeout


def work(item):
    global at_work
    at_work += 1
    sleep(2e-4)
    at_work -= 1


at_work, caught, delays = 0, 0, random.Random(0)
signal.signal(signal.SIGALRM, raises)
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, delays.uniform(2e-5, 1e-3))
        run_in_threads(work, list(range(9)), 3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sleep(1e-4)
    except Timeout:
        caught += 1
        before = at_work
        sleep(5e-4)
        assert at_work == before, "a thread works on"  # what the handler has interrupted here is never counted down
assert caught > 100, caught
"""


def test_no_thread_works_on_after_a_signals_handler_has_raised(python):
    python("-c", INTERRUPTED_SHARES)


INTERRUPTED_STARTS = """
import random
import signal
from time import sleep
from fastpool.threads import in_a_thread_of_its_own


class Timeout(RuntimeError):
    pass


def raises(*_):
    global fired
    fired += 1
    raise Timeout


fired, caught, calls = 0, 0, random.Random(0)
signal.signal(signal.SIGALRM, raises)
for _ in range(1000):
    ran = []
    try:
        signal.setitimer(signal.ITIMER_REAL, calls.uniform(2e-5, 3e-4))
        in_a_thread_of_its_own(ran.append, 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sleep(1e-4)  # a signal that another thread has received is handled here, too
    except Timeout:
        caught += 1
    assert len(ran) <= 1
assert fired > 100, fired
assert caught > 0.9 * fired, (caught, fired)  # Python drops what a handler raises inside a callback
"""


def test_what_a_signals_handler_raises_while_a_thread_starts_is_not_lost(python):
    """Where it is a RuntimeError, too, as the failure to start one."""
    python("-c", INTERRUPTED_STARTS)
