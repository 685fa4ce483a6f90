"""Has pytest-benchmark store what a time depends on (CPU, threads, versions), and not the machine's name."""

from fastpool.__main__ import environment


def pytest_benchmark_update_machine_info(machine_info):
    machine_info.clear()
    machine_info.update(environment())


def pytest_benchmark_update_commit_info(commit_info):
    for private in ("author_time", "project"):
        commit_info.pop(private, None)
