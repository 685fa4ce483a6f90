"""Calls of the cython backend from several threads at once, for ThreadSanitizer: python races.py [SHARED].

All threads read the same inputs. With SHARED they also write to one result, which must be reported.
"""

import sys
from threading import Barrier, Thread

import numpy as np
from specimens import has

from fastpool.cases import CASES, results

THREADS, CALLS = 4, 5


def races(case, dtype, shared):
    arguments = case.arguments(np.random.default_rng(0), dtype, "small")
    expected, together, wrong = case.run(arguments, "cython"), Barrier(THREADS), []
    if shared:
        arguments["out"] = expected

    def work():
        together.wait()
        for _ in range(CALLS):
            got = case.run(arguments, "cython")
            if not all(map(np.array_equal, results(got), results(expected))):
                wrong.append(got)

    threads = [Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared or not wrong, case.name


def main(shared=""):
    for case in CASES.values():
        without_out = case.op == "conv2d_backward"
        if ("swish" in case.op and not has("cython", "swish")) or (shared and without_out):
            continue
        for dtype in (np.float32, np.float16):
            races(case, dtype, bool(shared))


if __name__ == "__main__":
    main(*sys.argv[1:])
