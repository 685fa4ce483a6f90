"""How the numba backend shares the work of a call: with kernels of the tests' own, which tell who did what."""

import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest

import fastpool as fp
import fastpool.threads

pytest.importorskip("numba")
from numba import types

from fastpool.backends.numba import compilation, threads
from fastpool.backends.numba.compilation import kernel
from fastpool.backends.numba.threads import done_of, launch, mark_done, pause, set_state, state_of

MUCH = 100 * threads.PARALLEL_BYTES

# A kernel that waits for another chunk gives up after some seconds.
PATIENCE = 100_000_000

thread_id = types.ExternalFunction("pthread_self", types.uint64())


@pytest.fixture(autouse=True)
def _four_threads(monkeypatch):
    """And no kernel of a test on disk, where it would outlive its source."""
    monkeypatch.setattr(compilation, "cache_directory", lambda: "")
    fp.set_num_threads(4)
    yield
    fp.set_num_threads(None)


# A flag is an array like the mailbox of the helpers: its first word can be set and seen across threads, its second
# be counted up.


def new_flag():
    return np.zeros(threads.WORDS, np.int64)


@kernel
def note(counts, chunks, scratch, start, stop):
    """How often each unit is done, and where the chunks are: chunks[first] = last."""
    for unit in range(start, stop):
        counts[unit] += 1
    if stop > start:
        chunks[start] = stop


def noted(units, nbytes):
    counts, chunks = np.zeros(units, np.int64), np.zeros(units, np.int64)
    launch(note, units, nbytes, 0, counts, chunks)
    return counts, {int(start): int(chunks[start]) for start in np.flatnonzero(chunks)}


@kernel
def meet(flag, met, patience, scratch, start, stop):
    """The chunk of the first unit waits until another chunk has begun."""
    if start > 0:
        set_state(flag, 1)
    elif stop > 0:
        for _ in range(patience):
            if state_of(flag) == 1:
                met[0] = 1
                break
            pause()


@contextmanager
def helpers_that_watch_for_long(times=100):
    """On a busy machine a helper may give up before its caller, whose core it got, has told what to do."""
    before, threads.WATCH = threads.WATCH, times * threads.WATCH
    try:
        yield
    finally:
        threads.WATCH = before


def another_thread_helps():
    """Whether the chunks of a call meet, sooner or later: a helper may just be falling asleep."""
    met = np.zeros(1, np.uint8)
    with helpers_that_watch_for_long():
        for _ in range(20):
            launch(meet, 2, MUCH, 0, new_flag(), met, PATIENCE // 20)
            if met[0]:
                return True
    return False


@kernel
def gather_threads(flag, ids, wanted, patience, scratch, start, stop):
    """Every chunk notes its thread, and stays until so many have begun."""
    if stop > start:
        ids[start] = thread_id()
        mark_done(flag)
        for _ in range(patience):
            if done_of(flag) >= wanted:
                break
            pause()


def threads_of_a_call(wanted, patience):
    """The threads that take chunks of one call, whose chunks wait for as many as are wanted."""
    flag, ids = new_flag(), np.zeros(64, np.uint64)
    launch(gather_threads, 64, MUCH, 0, flag, ids, wanted, patience)
    return {int(i) for i in ids[ids != 0]}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("units", [1, 2, 3, 7, 100, 1001, 10_007])
@pytest.mark.parametrize("nbytes", [0, threads.PARALLEL_BYTES, MUCH, 10**12])
def test_every_unit_is_done_once(units, nbytes, n):
    fp.set_num_threads(n)
    counts, chunks = noted(units, nbytes)
    assert (counts == 1).all()
    ends = sorted(chunks.items())
    assert [start for start, _ in ends] == [0] + [stop for _, stop in ends[:-1]]
    assert ends[-1][1] == units


def test_much_work_is_cut_into_chunks():
    assert len(noted(1000, MUCH)[1]) >= 4


def test_no_more_chunks_than_the_mailbox_counts(monkeypatch):
    fp.set_num_threads(9)
    monkeypatch.setattr(threads, "CHUNKS_PER_THREAD", 1000)
    counts, chunks = noted(100_000, 10**12)
    assert (counts == 1).all()
    assert len(chunks) == threads.MOST_CHUNKS


def test_little_work_stays_in_one_piece():
    assert noted(100, threads.PARALLEL_BYTES - 1)[1] == {0: 100}


def test_one_thread_is_one_piece():
    fp.set_num_threads(1)
    assert noted(100, MUCH)[1] == {0: 100}


def test_no_units_are_no_work():
    launch(note, 0, MUCH, 0, np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_another_thread_helps():
    assert another_thread_helps()


def test_without_a_helper_chunks_do_not_meet():
    """What the test above would see."""
    fp.set_num_threads(1)
    met = np.zeros(1, np.uint8)
    launch(meet, 2, MUCH, 0, new_flag(), met, 1000)
    assert not met[0]


@kernel
def copy_arguments(f4, u1, i2, bits, whole, real, scalar, flag, nothing, pair, nested, seen, scratch, start, stop):
    for unit in range(start, stop):
        seen[unit, 0] = f4[unit]
        seen[unit, 1] = u1[unit, unit % 3]
        seen[unit, 2] = i2[unit, 0, 1]
        seen[unit, 3] = 1 if bits[unit] else 0
        seen[unit, 4] = whole
        seen[unit, 5] = real
        seen[unit, 6] = scalar
        seen[unit, 7] = 1 if flag else 0
        seen[unit, 8] = 1 if nothing is None else 0
        seen[unit, 9] = pair[0] + pair[1]
        seen[unit, 10] = nested[0] + nested[1][0] + nested[1][1]
        seen[unit, 11] = f4.shape[0] + i2.shape[2]


@pytest.mark.parametrize("nbytes", [0, MUCH])
def test_arguments_of_all_kinds_reach_the_kernel(nbytes):
    rng, units = np.random.default_rng(0), 100
    f4, u1 = rng.random(units).astype(np.float32), rng.integers(0, 256, (units, 3)).astype(np.uint8)
    i2, bits = rng.integers(-99, 99, (units, 2, 2)).astype(np.int16), rng.random(units) < 0.5
    seen = np.zeros((units, 12))
    scalars = -(2**40), 0.1, np.int16(-7), True, None, (3, 4), (1, (np.float32(0.5), 2**33))
    launch(copy_arguments, units, nbytes, 0, f4, u1, i2, bits, *scalars, seen)
    every = np.arange(units)
    expected = [f4, u1[every, every % 3], i2[:, 0, 1], bits, -(2**40), 0.1, -7, 1, 1, 7, 1.5 + 2**33, units + 2]
    np.testing.assert_array_equal(seen, np.stack([np.broadcast_to(e, units) for e in expected], 1))


@kernel
def add(a, b, out, scratch, start, stop):
    for unit in range(start, stop):
        out[unit] = a[unit] + b


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_one_kernel_serves_several_dtypes_one_after_the_other(dtype):
    a, out = np.arange(100).astype(dtype), np.zeros(100)
    for b in (1, 1.5, np.float32(0.25), np.uint8(3)):
        launch(add, 100, MUCH, 0, a, b, out)
        np.testing.assert_array_equal(out, a + float(b))


@kernel
def fail(counts, at, kind, scratch, start, stop):
    for unit in range(start, stop):
        counts[unit] += 1
    if start <= at < stop:
        if kind == 0:
            raise MemoryError("no room")
        raise ValueError("no such number")


@pytest.mark.parametrize(("kind", "error"), [(0, MemoryError("no room")), (1, ValueError("no such number"))], ids=str)
@pytest.mark.parametrize("at", [0, 50, 99])
@pytest.mark.parametrize("nbytes", [0, MUCH])
def test_an_error_in_any_chunk_reaches_the_caller_and_the_helpers_live_on(nbytes, at, kind, error):
    for _ in range(3):
        with pytest.raises(type(error), match=str(error)):
            launch(fail, 100, nbytes, 0, np.zeros(100, np.int64), at, kind)
    assert another_thread_helps()
    assert (noted(100, MUCH)[0] == 1).all()


@kernel
def fail_in_parts(out, scratch, start, stop):
    """As where every thread wants room and there is only enough for one."""
    if 0 < stop - start < len(out):
        raise MemoryError("no room for all of us")
    for unit in range(start, stop):
        out[unit] = unit


def test_what_goes_wrong_in_parts_is_done_again_alone():
    out = np.zeros(100, np.int64)
    launch(fail_in_parts, 100, MUCH, 0, out)
    np.testing.assert_array_equal(out, np.arange(100))


@kernel
def write_to_scratch(flag, seen, patience, scratch, start, stop):
    """Each chunk fills its thread's scratch, waits for another to do so, and tells whether its own is still there."""
    if stop > start:
        scratch[:] = start % 251
        mark_done(flag)
        for _ in range(patience):
            if done_of(flag) > 1:
                break
            pause()
        seen[start] = len(scratch) if (scratch == start % 251).all() else -1


@pytest.mark.parametrize("nbytes", [1, 64, 4096, 1 << 20])
def test_each_thread_has_scratch_of_its_own(nbytes):
    nbytes = -(-nbytes // 64) * 64
    seen = np.zeros(64, np.int64)
    with helpers_that_watch_for_long():
        for _ in range(5):
            launch(write_to_scratch, 64, MUCH, nbytes, new_flag(), seen, 10_000)
    assert set(seen[seen != 0]) == {nbytes}


def test_scratch_begins_a_line_of_the_caches_and_is_kept_while_it_is_small():
    for nbytes in (1, 1000, threads.KEPT_SCRATCH, threads.KEPT_SCRATCH + 1, 10_000_000):
        scratch = threads.new_scratch(nbytes)
        assert scratch.ctypes.data % 64 == 0
        assert scratch.nbytes >= nbytes
        assert (threads.new_scratch(nbytes) is scratch) == (nbytes <= threads.KEPT_SCRATCH)


def test_a_call_that_finds_no_memory_for_all_threads_runs_in_one(monkeypatch):
    allocate = threads.new_scratch

    def refuse(nbytes):
        if nbytes > 4096:
            raise MemoryError
        return allocate(nbytes)

    monkeypatch.setattr(threads, "new_scratch", refuse)
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.uint64)
    launch(note_threads, 1000, MUCH, 4096, counts, ids)
    assert (counts == 1).all()
    assert len(set(ids)) == 1


def test_a_call_that_finds_no_memory_raises_before_anything_is_written(monkeypatch):
    def refuse(nbytes):
        raise MemoryError("refused")

    monkeypatch.setattr(threads, "new_scratch", refuse)
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.uint64)
    with pytest.raises(MemoryError, match="refused"):
        launch(note_threads, 1000, MUCH, 4096, counts, ids)
    assert not counts.any()


@kernel
def block(flag, patience, scratch, start, stop):
    """Says that it has begun, and waits to be let go."""
    if stop > start:
        mark_done(flag)
        for _ in range(patience):
            if state_of(flag) == 1:
                break
            pause()


@kernel
def note_threads(counts, ids, scratch, start, stop):
    for unit in range(start, stop):
        counts[unit] += 1
        ids[unit] = thread_id()


def test_a_call_that_finds_the_helpers_busy_with_another_finishes_alone():
    launch(block, 4, MUCH, 0, new_flag(), 0)
    flag = new_flag()
    caller = Thread(target=launch, args=(block, 4, MUCH, 0, flag, PATIENCE))
    caller.start()
    try:
        end = time.monotonic() + 60
        while flag[1] == 0 and time.monotonic() < end:
            time.sleep(0.001)
        counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.uint64)
        launch(note_threads, 1000, MUCH, 0, counts, ids)
        assert caller.is_alive()
    finally:
        flag[0] = 1
        caller.join()
    assert (counts == 1).all()
    assert len(set(ids)) == 1


def test_a_call_whose_helpers_do_not_come_finishes_alone(monkeypatch):
    monkeypatch.setattr(threads._Team, "wake", lambda self, count: None)
    time.sleep(0.1)
    counts, ids = np.zeros(1000, np.int64), np.zeros(1000, np.uint64)
    launch(note_threads, 1000, MUCH, 0, counts, ids)
    assert (counts == 1).all()
    assert len(set(ids)) == 1


def test_an_interpreter_that_starts_no_more_threads_computes_alone(monkeypatch):
    monkeypatch.setattr(threads, "_team", threads._Team())

    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(Thread, "start", refuse)
    assert (noted(1000, MUCH)[0] == 1).all()


@kernel
def multiply(a, factor, out, scratch, start, stop):
    for unit in range(start, stop):
        out[unit] += a[unit] * factor


def test_many_threads_may_launch_thousands_of_calls_at_once():
    launch(multiply, 100, MUCH, 0, np.zeros(100), 1, np.zeros(100))
    wrong, done = [], []

    def loop(seed):
        rng = np.random.default_rng(seed)
        for factor in range(500):
            units = int(rng.integers(1, 200))
            a, out = rng.random(units), np.zeros(units)
            launch(multiply, units, int(rng.integers(1, 6)) * threads.PARALLEL_BYTES, 0, a, factor, out)
            if not np.array_equal(out, a * factor):
                wrong.append((seed, factor))
        done.append(seed)

    callers = [Thread(target=loop, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(done) == list(range(8))
    assert wrong == []


def test_one_thread_may_launch_thousands_of_calls_of_several_kernels():
    out, total, counts, chunks = np.zeros(64), np.zeros(64), np.zeros(64, np.int64), np.zeros(64, np.int64)
    for factor in range(3000):
        launch(multiply, 64, MUCH, 0, np.full(64, 2.0), factor, out)
        launch(note, 64, MUCH, 0, counts, chunks)
        total += 2.0 * factor
    np.testing.assert_array_equal(out, total)
    assert (counts == 3000).all()


def test_as_many_threads_take_part_as_are_set():
    """Fewer than before, too: helpers that were started for more stay out of it."""
    with helpers_that_watch_for_long(1000):
        assert any(len(threads_of_a_call(4, PATIENCE // 50)) == 4 for _ in range(20))
        fp.set_num_threads(2)
        noted(64, MUCH)
        time.sleep(0.01)  # the others, still awake, have seen by now that they are not wanted
        used = [len(threads_of_a_call(3, 10_000)) for _ in range(20)]
    assert max(used) == 2


def _cpu_time_of_half_a_second():
    before = time.process_time()
    time.sleep(0.5)
    return time.process_time() - before


def test_helpers_sleep_after_a_while_and_wake_again():
    assert another_thread_helps()
    assert any(_cpu_time_of_half_a_second() < 0.1 for _ in range(6))
    assert another_thread_helps()


IN_A_CHILD = """
import os, sys, time
sys.path.insert(0, "tests")
import test_threads
from test_threads import another_thread_helps, compilation, fp, noted, MUCH
compilation.cache_directory = lambda: ""
fp.set_num_threads(4)
def works():
    return another_thread_helps() and (noted(1001, MUCH)[0] == 1).all()
print(works(), flush=True)
pid = os.fork()
if pid == 0:
    code = 3
    try:
        code = 0 if works() else 1
    finally:
        os._exit(code)
end = time.monotonic() + 60
while time.monotonic() < end:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        print(os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.01)
else:
    os.kill(pid, 9)
    print("the child hangs")
print(works())
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="this system does not fork")
def test_a_forked_child_has_helpers_of_its_own(python):
    assert python("-W", "ignore", "-c", IN_A_CHILD) == "True\n0\nTrue\n"


# How many threads

GROUPS = {
    "no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "no control groups": ({}, None),
    "version 2": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the least of all groups above": (
        {
            "proc/self/cgroup": "0::/user.slice/batch/job\n",
            "sys/fs/cgroup/user.slice/cpu.max": "800000 100000",
            "sys/fs/cgroup/user.slice/batch/cpu.max": "25000 50000",
            "sys/fs/cgroup/user.slice/batch/job/cpu.max": "max 100000",
            "sys/fs/cgroup/elsewhere/cpu.max": "1000 100000",
        },
        0.5,
    ),
    "version 2, a path that only the machine knows": (
        {"proc/self/cgroup": "0::/docker/1234", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 2, a group beside the container's": (
        {"proc/self/cgroup": "0::/../other", "sys/fs/cgroup/cpu.max": "300000 100000"},
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/docker/1234\n4:cpu,cpuacct:/docker/1234\n0::/docker/1234\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1, a group of its own": (
        {
            "proc/self/cgroup": "4:cpu:/jobs/a",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/jobs/a/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/jobs/a/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "version 1 without a limit": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
}


@pytest.mark.parametrize(("files", "quota"), GROUPS.values(), ids=GROUPS)
def test_the_quota_is_that_of_the_control_groups(files, quota, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert fastpool.threads.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_as_many_threads_as_cpus_that_a_quota_allows(quota, expected, monkeypatch):
    monkeypatch.setattr(fastpool.threads, "_affinity", lambda: 8)
    monkeypatch.setattr(fastpool.threads, "_quota", (-math.inf, None))
    monkeypatch.setattr(fastpool.threads, "cpu_quota", lambda: quota)
    fp.set_num_threads(None)
    monkeypatch.setattr(fastpool.threads, "_from_environment", lambda: None)
    assert fp.get_num_threads() == expected
    fp.set_num_threads(5)
    assert fp.get_num_threads() == 5


def test_a_quota_that_changes_is_seen(monkeypatch):
    monkeypatch.setattr(fastpool.threads, "_affinity", lambda: 8)
    monkeypatch.setattr(fastpool.threads, "_quota", (-math.inf, None))
    monkeypatch.setattr(fastpool.threads, "QUOTA_SECONDS", 0)
    quotas = iter([4.0, 2.0, None])
    monkeypatch.setattr(fastpool.threads, "cpu_quota", lambda: next(quotas))
    assert [fastpool.threads.usable_cpus() for _ in range(3)] == [4, 2, 8]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_a_thread_that_is_pinned_later_counts_its_own_cpus(python):
    code = """
import os, threading, fastpool as fp
cpus = os.sched_getaffinity(0)
before = fp.get_num_threads()
def pinned():
    os.sched_setaffinity(0, {min(cpus)})
    counts.append(fp.get_num_threads())
counts = []
thread = threading.Thread(target=pinned)
thread.start()
thread.join()
counts.append(fp.get_num_threads())
pinned()
print(counts == [1, before, 1])
"""
    assert python("-c", code, FASTPOOL_NUM_THREADS=None) == "True\n"


# Signals

INTERRUPTED = """
import random, signal, sys, time
sys.path.insert(0, "tests")
from test_threads import MUCH, another_thread_helps, compilation, fp, noted
compilation.cache_directory = lambda: ""
fp.set_num_threads(4)
class Interrupt(Exception):
    pass
def interrupt(*_):
    raise Interrupt
noted(1001, MUCH)
started = time.monotonic()
for _ in range(20):
    noted(1001, MUCH)
longest = (time.monotonic() - started) / 10
signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
raised = 0
for _ in range(int(sys.argv[1])):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
            while True:
                noted(1001, MUCH)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        raised += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(raised)
print(another_thread_helps(), (noted(1001, MUCH)[0] == 1).all())
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_calls_are_shared_after_thousands_of_interrupts_by_a_handler_that_raises(python):
    assert python("-c", INTERRUPTED, "3000") == "3000\nTrue True\n"
