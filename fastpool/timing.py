"""Timing calls in turn: whether their results agree, their times, and copies of as many bytes to compare with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from statistics import quantiles
from time import perf_counter, process_time, sleep
from timeit import Timer
from typing import Any, NamedTuple

import numpy as np

COPY = "copy"  # how the names of copies begin
FEWEST_ROUNDS = 3
SAMPLE = 2e-4  # seconds; a shorter call is repeated until it fills them
WARM = 5e-3  # a call shorter than this is first made once untimed, since the others have emptied the caches
PAUSE = 1e-3  # the idle threads of some peers spin for a while after a call

# How far results may differ where sums are made in another order, relative to each value, by the bytes of an element:
# 64 roundings. Two-byte floats are summed in float32 and rounded once: to a neighbour, at most 2**-8 away.
ROUNDING = {4: 2.0**-18, 8: 2.0**-47}
HALF_ROUNDING = 2.0**-8


def agree(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], exact: bool, half_rounding: float = 1e-4) -> bool:
    """Whether results are the same: in each value, or but for rounding, that of two-byte floats as given."""
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if exact:
            if not np.array_equal(a, b):
                return False
            continue
        rounding = ROUNDING.get(a.itemsize, half_rounding)
        a, b = a.astype(np.float64), b.astype(np.float64)
        if not np.allclose(a, b, rtol=rounding, atol=rounding / 10 * abs(b).max(initial=1)):
            return False
    return True


class Times(NamedTuple):
    """The times of one call."""

    samples: tuple[float, ...]  # seconds of a call
    cpu_share: float  # CPU seconds of the process over the elapsed ones: how many threads worked

    @property
    def least(self) -> float:
        return min(self.samples)

    @property
    def quartiles(self) -> tuple[float, ...]:
        """The lower quartile, the median and the upper quartile of the samples.

        >>> Times((4.0, 1.0, 3.0, 2.0, 5.0), 1.0).quartiles
        (2.0, 3.0, 4.0)
        """
        return tuple(quantiles(self.samples, method="inclusive"))


def times_in_turn(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Times]:
    """Time each call: all in turn, in a new order each round, until each has had its seconds."""
    timers = {name: Timer(call) for name, call in calls.items()}
    loops = {}
    for name, timer in timers.items():
        once = timer.timeit(1)
        if once < WARM:
            once = min(timer.repeat(3, 1))
        loops[name] = max(int(SAMPLE / once), 1)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    least = dict.fromkeys(calls, float("inf"))
    cpu = dict.fromkeys(calls, 0.0)
    left = dict.fromkeys(calls, seconds)
    rng = random.Random(0)
    rounds = 0
    while due := [name for name in calls if rounds < FEWEST_ROUNDS or left[name] > 0]:
        rng.shuffle(due)
        for name in due:
            begin = perf_counter()
            sleep(PAUSE)
            if least[name] < WARM:
                calls[name]()
            cpu_before = process_time()
            elapsed = timers[name].timeit(loops[name])
            cpu[name] += process_time() - cpu_before
            samples[name].append(elapsed / loops[name])
            least[name] = min(least[name], samples[name][-1])
            left[name] -= perf_counter() - begin
        rounds += 1
    return {name: Times(tuple(own), cpu[name] / (loops[name] * sum(own))) for name, own in samples.items()}


def least_times(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The least seconds of each call, timed in turn."""
    return {name: times.least for name, times in times_in_turn(calls, seconds).items()}


@cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def copies(moved: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Copies that read and write `moved` bytes together, on one thread and on all."""
    source = np.ones(max(moved // 2, threads), np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

    def together() -> None:
        waiting = [_helpers(threads - 1).submit(np.copyto, *part) for part in parts[1:]]
        np.copyto(*parts[0])
        for copied in waiting:
            copied.result()

    alone: dict[str, Callable[[], Any]] = {f"{COPY}, 1 thread": partial(np.copyto, target, source)}
    return alone if threads == 1 else {**alone, f"{COPY}, {threads} threads": together}
