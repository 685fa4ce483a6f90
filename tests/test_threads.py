"""How the numba backend shares the work of a call: with kernels of the tests' own, which tell who did what."""

from threading import Event, Lock, Thread, get_ident

import pytest

import fastpool as fp

pytest.importorskip("numba")
threads = pytest.importorskip("fastpool.backends.numba.threads")

MUCH = threads.PARALLEL_BYTES


class Recorder:
    """A kernel that notes the chunks it was given, and by whom."""

    def __init__(self):
        self.chunks, self.lock = [], Lock()

    def __call__(self, begin, end):
        with self.lock:
            self.chunks.append((begin, end, get_ident()))

    def units(self):
        return sorted(unit for begin, end, _ in self.chunks for unit in range(begin, end))


@pytest.fixture(autouse=True)
def _four_threads():
    fp.set_num_threads(4)
    yield
    fp.set_num_threads(None)


@pytest.mark.parametrize("units", [1, 2, 3, 7, 100, 1001])
@pytest.mark.parametrize("nbytes", [0, MUCH, 100 * MUCH])
def test_every_unit_is_done_once(units, nbytes):
    kernel = Recorder()
    threads.launch(kernel, units, nbytes)
    assert kernel.units() == list(range(units))


def test_little_work_stays_on_the_calling_thread_in_one_piece():
    kernel = Recorder()
    threads.launch(kernel, 100, MUCH - 1)
    assert kernel.chunks == [(0, 100, get_ident())]


def test_one_thread_is_one_piece():
    fp.set_num_threads(1)
    kernel = Recorder()
    threads.launch(kernel, 100, MUCH)
    assert kernel.chunks == [(0, 100, get_ident())]


def test_another_thread_helps():
    """The caller's first chunk waits until a second one has begun: without help this would not end."""
    met = Event()

    def kernel(begin, end):
        if begin == 0:
            assert met.wait(60)
        else:
            met.set()

    threads.launch(kernel, 2, MUCH)
    assert met.is_set()


def test_arguments_reach_the_kernel():
    seen = []
    threads.launch(lambda *given: seen.append(given), 1, 0, "a", 2)
    assert seen == [("a", 2, 0, 1)]


def test_an_error_in_any_chunk_reaches_the_caller_and_the_helpers_live_on():
    def kernel(begin, end):
        if end == 100:
            raise MemoryError("no room")

    for _ in range(3):
        with pytest.raises(MemoryError, match="no room"):
            threads.launch(kernel, 100, 100 * MUCH)
    test_another_thread_helps()


def test_a_call_whose_helpers_are_all_busy_finishes_alone():
    busy, release = Lock(), Event()
    waiting = []

    def blocked(begin, end):
        with busy:
            waiting.append(begin)
        assert release.wait(60)

    callers = [Thread(target=threads.launch, args=(blocked, 8, MUCH)) for _ in range(3)]
    for caller in callers:
        caller.start()
    kernel = Recorder()
    threads.launch(kernel, 1000, 100 * MUCH)
    assert kernel.units() == list(range(1000))
    release.set()
    for caller in callers:
        caller.join()
    assert sorted(waiting) == sorted([*range(8)] * 3)
