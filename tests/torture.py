"""Random calls under signals, forks, threads and failed allocations: python torture.py [SEED] [SECONDS].

Each round runs in its own process. It mixes calls of all ops from several threads with forks, signal handlers that
raise, failed allocations, changes of the number of threads, and an exit during calls. Every result is compared with
that of the numpy backend. A round that returns a wrong result, raises an unexpected exception, crashes or hangs is
printed with its seed and ends the run: python torture.py SEED 0 repeats it, as far as threads are reproducible.
"""

import faulthandler
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Seconds after which a round hangs.
PATIENCE = int(os.environ.get("FASTPOOL_TORTURE_PATIENCE", "240"))


class Interrupt(Exception):
    """Raised only by signal handlers."""


def interrupt(*_):
    raise Interrupt


def calls(fp, np):
    """Every op by name, as a function of a backend, on small and large arrays."""
    rng = np.random.default_rng(0)
    made = {}
    for size, shape in (("small", (2, 4, 8, 8)), ("large", (4, 16, 128, 128))):
        x = rng.integers(-99, 100, shape).astype(np.float32)
        for dtype in map(np.dtype, ("f4", "u1", "f2")):
            made[f"{size} max_pool2d {dtype}"] = lambda b, x=x, dtype=dtype: fp.max_pool2d(
                x.astype(dtype), 3, 2, 1, return_argmax=True, backend=b
            )
        y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True, backend="numpy")
        units, piece = fp.maxout(x, 2, return_argmax=True, backend="numpy")
        cols = fp.im2col(x, 3, backend="numpy")
        made |= {
            f"{size} max_pool1d": lambda b, x=x: fp.max_pool1d(x[0], 5, 2, backend=b),
            f"{size} max_pool3d": lambda b, x=x: fp.max_pool3d(x, 2, backend=b),
            f"{size} max_pool2d_backward": lambda b, x=x, y=y, a=argmax: fp.max_pool2d_backward(
                y, a, x.shape, 3, 2, 1, backend=b
            ),
            f"{size} global_max_pool": lambda b, x=x: fp.global_max_pool(x, backend=b),
            f"{size} maxout": lambda b, x=x: fp.maxout(x, 2, return_argmax=True, backend=b),
            f"{size} maxout_backward": lambda b, x=x, u=units, p=piece: fp.maxout_backward(u, p, x.shape, backend=b),
            f"{size} im2col": lambda b, x=x: fp.im2col(x, 3, backend=b),
            f"{size} col2im": lambda b, x=x, c=cols: fp.col2im(c, x.shape, 3, backend=b),
            f"{size} hard_swish": lambda b, x=x: fp.hard_swish(x, backend=b),
        }
    return made


class Round:
    """Calls with known results."""

    def __init__(self):
        import numpy as np

        import fastpool as fp

        self.fp, self.np = fp, np
        self.calls = calls(fp, np)
        self.expected = {name: call("numpy") for name, call in self.calls.items()}
        self.names, self.problems = sorted(self.calls), []

    def check(self, name, backend=None):
        got, expected = self.calls[name](backend), self.expected[name]
        pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
        for g, e in pairs:
            # All are sums of small integers, and so exact, but for hard-swish.
            wrong = self.np.flatnonzero(~self.np.isclose(g, e, rtol=1e-5 if "swish" in name else 0, atol=0))
            if wrong.size:
                raise AssertionError(f"{name} is wrong at {wrong.size} of {e.size}, from {wrong[0]} to {wrong[-1]}")

    def guarded(self, function, *arguments):
        """Run in a thread; an exception is a problem of the round."""
        try:
            function(*arguments)
        except BaseException as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def in_threads(self, count, function, *arguments):
        threads = [threading.Thread(target=self.guarded, args=(function, *arguments)) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def loop(self, stop, seed):
        rng = random.Random(seed + threading.get_ident())
        while not stop.is_set():
            self.check(rng.choice(self.names))


def some_calls(this, rng):
    for _ in range(rng.randint(1, 20)):
        this.check(rng.choice(this.names))


def other_threads(this, rng):
    """Calls of many threads at once, while the number of threads that each may use changes."""
    stop = threading.Event()
    threads = this.in_threads(rng.randint(1, 8), this.loop, stop, rng.randrange(1 << 30))
    for _ in range(rng.randint(5, 30)):
        this.fp.set_num_threads(rng.choice([None, 1, 2, 3, 4, 8]))
        time.sleep(rng.uniform(0, 0.02))
    stop.set()
    for thread in threads:
        thread.join()


def child_of(function):
    """The exit code of a forked child that does this. A child that hangs prints its stack on SIGABRT."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            function()
            code = 0
        except BaseException as error:
            print(f"in a child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE / 2
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGABRT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forks(this, rng):
    """Children of a process whose other threads are in calls, possibly in the first one."""
    stop = threading.Event()
    threads = this.in_threads(rng.randint(0, 3), this.loop, stop, rng.randrange(1 << 30))
    try:
        for _ in range(rng.randint(1, 4)):
            time.sleep(rng.choice([0, rng.uniform(0, 0.01), rng.uniform(0, 1)]))
            name, threaded = rng.choice(this.names), rng.random() < 0.3

            def in_child(name=name, threaded=threaded):
                this.check(name)
                for thread in this.in_threads(3, this.check, name) if threaded else ():
                    thread.join()
                if this.problems:
                    raise AssertionError(this.problems)

            code = child_of(in_child)
            if code:
                this.problems.append(f"a child ended with {code}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def signals(this, rng):
    """Signal handlers that raise at any moment of a call."""
    which = rng.choice([signal.SIGALRM, signal.SIGINT])
    name = rng.choice([n for n in this.names if "large" in n])
    this.check(name)
    signal.signal(which, interrupt)
    try:
        for _ in range(rng.randint(20, 300)):
            timer = threading.Timer(rng.uniform(0, 0.003), os.kill, (os.getpid(), which))
            try:
                try:
                    if which == signal.SIGALRM:
                        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 0.003))
                    else:
                        timer.start()
                    while True:
                        this.check(name)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
    finally:
        signal.signal(which, signal.SIG_IGN)
    this.check(name)


def refused_memory(this, rng):
    """A call raises MemoryError or returns the right result; afterwards calls work as before."""
    for name in this.names:  # what is compiled near the limit may end the process inside LLVM
        this.check(name)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        for _ in range(rng.randint(5, 30)):
            name = rng.choice(this.names)
            resource.setrlimit(resource.RLIMIT_AS, (used + rng.choice([0, 1 << 16, 1 << 20, 1 << 22, 1 << 26]), hard))
            try:
                this.calls[name](None)
            except MemoryError:
                pass
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            this.check(name)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def exit_in_calls(this, rng):
    """The end of a round: the interpreter exits while daemon threads are in calls."""
    for _ in range(rng.randint(1, 4)):
        seed, never = rng.randrange(1 << 30), threading.Event()
        threading.Thread(target=this.loop, args=(never, seed), daemon=True).start()
    time.sleep(rng.uniform(0, 0.1))


ACTS = (some_calls, other_threads, forks, signals, refused_memory)


def still_shared(this):
    """Whether other threads of this process compute in a large call."""

    def others():
        """The time that each other thread has spent, by its number."""
        spent = {}
        for task in Path("/proc/self/task").iterdir():
            if int(task.name) != threading.get_native_id():
                with suppress(OSError):  # it has ended meanwhile
                    fields = (task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
                    spent[task.name] = int(fields[11]) + int(fields[12])
        return spent

    this.fp.set_num_threads(4)
    before, end = others(), time.monotonic() + 60
    while time.monotonic() < end:
        this.check("large max_pool2d float32")
        if any(spent > before.get(task, 0) for task, spent in others().items()):
            return True
    return False


def one_round(seed):
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    rng, this = random.Random(seed), Round()
    for act in rng.choices(ACTS, k=rng.randint(1, 4)):
        print(act.__name__, end=" ", flush=True)
        act(this, rng)
        if this.problems:
            raise SystemExit(f"{act.__name__}: {'; '.join(this.problems)}")
    if this.fp.backends()["numba"].available and not still_shared(this):
        raise SystemExit("calls are not shared with other threads any more")
    if rng.random() < 0.3:
        print("exit_in_calls", end=" ", flush=True)
        exit_in_calls(this, rng)


def main(seed=0, seconds=300):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("FASTPOOL_BACKEND", None)
    command = [sys.executable, "-W", "ignore", __file__]
    # All kernels are compiled and cached beforehand, which takes longer than any round.
    subprocess.run([*command, "--compile"], env=environment, check=True)
    end, rounds = time.monotonic() + seconds, 0
    while rounds == 0 or time.monotonic() < end:
        print(f"seed {seed + rounds}: ", end="", flush=True)
        done = subprocess.run(
            [*command, "--round", str(seed + rounds)], env=environment, stderr=subprocess.PIPE, text=True
        )
        print("" if done.returncode == 0 else f"ended with {done.returncode}\n{done.stderr}", flush=True)
        if done.returncode:
            raise SystemExit(f"python tests/torture.py {seed + rounds} 0 does this round again")
        rounds += 1
    print("all right:", rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compile"]:
        this = Round()
        for each in this.names:
            this.check(each)
    elif sys.argv[1:2] == ["--round"]:
        one_round(int(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
