"""No CUDA kernel executes more than a table allows."""

import json

import pytest

pytest.importorskip("numba_cuda", reason="needs numba-cuda")

from cuda_counts import TABLE, measure, rows

HELD = json.loads(TABLE.read_text(encoding="utf-8"))


def test_the_table_has_all_rows():
    assert list(HELD) == [row.name for row in rows()]


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
@pytest.mark.slow
def test_a_kernel_executes_no_more_than_the_table_says(row):
    """A tolerance of 5 %. For a deliberate change, `python tests/cuda_counts.py` writes a new table."""
    held, counted = HELD[row.name], measure(row)
    grown = {key: (held[key], n) for key, n in counted.items() if n > 1.05 * held[key]}
    assert not grown, f"(before, now): {grown}"
