"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Arrays arrive flat. A plane has rows of W * inner numbers, so that one loop serves both layouts.
"""

import numpy as np
from numba import prange

from fastpool.arrays import is_half, lowest
from fastpool.backends.numba.compilation import inlined, kernel
from fastpool.backends.numba.scalars import (
    after_last_tap,
    after_last_window,
    first_tap,
    first_window,
    key,
    maximum,
    narrowed,
    room_for_sums,
    ties,
    unkeyed,
    widened,
    wins,
)
from fastpool.backends.numba.threads import launch

TILE = 4096  # numbers in a row buffer: what stays in the first-level cache


@inlined
def fill(row, value):
    for i in range(len(row)):
        row[i] = value


@inlined
def copy(best, row, infinity):
    for i in range(len(best)):
        best[i] = key(row[i], infinity)


@inlined
def take_larger(best, row, infinity):
    for i in range(len(best)):
        best[i] = maximum(best[i], key(row[i], infinity))


@inlined
def take_winners(best, offset, row, row_offset, infinity):
    """`take_larger` that also notes which row won; a later row needs more than a tie."""
    candidate = offset.dtype.type(row_offset)
    for i in range(len(best)):
        value = key(row[i], infinity)
        better = wins(value, best[i])
        best[i] = value if better else best[i]
        offset[i] = candidate if better else offset[i]


@inlined
def take_first_winners(best, offset, row, row_offset, tap):
    """`take_winners` along a row: of two equal cells the one with the smaller offset is the first in its window."""
    tap = offset.dtype.type(tap)
    for i in range(len(best)):
        value = row[i]
        candidate = offset.dtype.type(row_offset[i] + tap)
        better = wins(value, best[i]) | (ties(value, best[i]) & (candidate < offset[i]))
        best[i] = value if better else best[i]
        offset[i] = candidate if better else offset[i]


@inlined
def split_phases(phases, row, step, inner):
    """Every step-th cell of a row, `step` times over, so that what lies a stride apart comes to lie side by side."""
    if step == 2 and inner == 1:
        half = len(phases) // 2
        even, odd = phases[:half], phases[half:]
        for i in range(half):
            even[i] = row[2 * i]
            odd[i] = row[2 * i + 1]
        return
    cells = len(phases) // (step * inner)
    for phase in range(step):
        for cell in range(cells):
            to, source = (phase * cells + cell) * inner, (cell * step + phase) * inner
            for i in range(inner):
                phases[to + i] = row[source + i]


@kernel
def max_pool(x, y, argmax, infinity, lowest, geometry, inner, tile, start, stop):
    """Units are tiles of output rows: first the maximum over a window's rows, cell by cell, then along the row."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    tiles = (OW + tile - 1) // tile
    cells = (tile - 1) * sw + (KW - 1) * dw + 1
    cells = (cells + sw - 1) // sw * sw
    best = np.empty(cells * inner, x.dtype)
    phases = np.empty(cells * inner if sw > 1 else 0, x.dtype)
    if argmax is not None:
        offset = np.empty(cells * inner, argmax.dtype)
        offset_phases = np.empty(cells * inner if sw > 1 else 0, argmax.dtype)
        # Padding has the offsets from here on: past every real cell, so it loses every tie.
        padding = argmax.dtype.type(KD * KH * KW)

    for unit in range(start, stop):
        at, t = divmod(unit, tiles)
        at, oh = divmod(at, OH)
        plane, od = divmod(at, OD)
        ow, ow_end = t * tile, min((t + 1) * tile, OW)
        left = ow * sw - pw
        w0, w1 = max(left, 0), min(left + cells, W)
        d0, h0 = od * sd - pd, oh * sh - ph

        empty = True
        for kd in range(first_tap(d0, dd), after_last_tap(d0, KD, dd, D)):
            for kh in range(first_tap(h0, dh), after_last_tap(h0, KH, dh, H)):
                if w0 >= w1:
                    continue
                at = ((plane * D + d0 + kd * dd) * H + h0 + kh * dh) * W
                row = x[(at + w0) * inner : (at + w1) * inner]
                into = best[(w0 - left) * inner : (w1 - left) * inner]
                if argmax is None:
                    if empty:
                        copy(into, row, infinity)
                    else:
                        take_larger(into, row, infinity)
                else:
                    row_offset = (kd * KH + kh) * KW
                    won = offset[(w0 - left) * inner : (w1 - left) * inner]
                    if empty:
                        copy(into, row, infinity)
                        fill(won, row_offset)
                    else:
                        take_winners(into, won, row, row_offset, infinity)
                empty = False
        if empty:
            w0 = w1 = left
        fill(best[: (w0 - left) * inner], lowest)
        fill(best[(w1 - left) * inner :], lowest)
        if argmax is not None:
            fill(offset[: (w0 - left) * inner], padding)
            fill(offset[(w1 - left) * inner :], padding)

        source = best
        if sw > 1:
            split_phases(phases, best, sw, inner)
            source = phases
        at = ((plane * OD + od) * OH + oh) * OW
        out = y[(at + ow) * inner : (at + ow_end) * inner]
        if argmax is not None:
            offset_source = offset
            if sw > 1:
                split_phases(offset_phases, offset, sw, inner)
                offset_source = offset_phases
            out_offset = argmax[(at + ow) * inner : (at + ow_end) * inner]
        for kw in range(KW):
            shift, phase = divmod(kw * dw, sw)
            tap = (phase * (cells // sw) + shift) * inner
            row = source[tap : tap + len(out)]
            if argmax is None:
                if kw == 0:
                    copy(out, row, None)
                else:
                    take_larger(out, row, None)
            else:
                row_offset = offset_source[tap : tap + len(out)]
                if kw == 0:
                    copy(out, row, None)
                    copy(out_offset, row_offset, None)
                else:
                    take_first_winners(out, out_offset, row, row_offset, kw)
        if infinity is not None:
            for i in range(len(out)):
                out[i] = unkeyed(out[i], infinity)
        if argmax is not None and (pd > 0 or ph > 0 or pw > 0 or empty or w1 < left + cells):
            for i in range(len(out)):
                out_offset[i] = out_offset[i] if out_offset[i] < padding else 0


@kernel(parallel=True)
def max_pool_parallel(x, y, argmax, infinity, lowest, geometry, inner, tile, units, chunks):
    for i in prange(chunks):
        max_pool(
            x, y, argmax, infinity, lowest, geometry, inner, tile, units * i // chunks, units * (i + 1) // chunks
        )


@kernel
def max_pool_backward(dy, argmax, dx, infinity, geometry, inner, start, stop):
    """Units are rows of dx. A tile of them is zeroed, then every window that can reach it adds to it, in order."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    rows, width = D * H, W * inner
    small = argmax.itemsize == 1
    taps = KD * KH * KW if small else 0
    row_of, column_of = np.empty(taps, np.int64), np.empty(taps, np.int64)
    for offset in range(taps):
        row_of[offset] = offset // (KH * KW) * dd * H + offset // KW % KH * dh
        column_of[offset] = offset % KW * dw
    tile = max(8 * TILE // width, 1)

    at = start
    while at < stop:
        plane, first = divmod(at, rows)
        end = min(first + tile, rows, stop - plane * rows)
        into = dx[(plane * rows + first) * width : (plane * rows + end) * width]
        total = room_for_sums(into, infinity)
        fill(total, 0)
        for od in range(
            first_window(first // H, (KD - 1) * dd + 1, sd, pd), after_last_window((end - 1) // H, sd, pd, OD)
        ):
            d0 = od * sd - pd
            kd0, kd1 = first_tap(d0, dd), after_last_tap(d0, KD, dd, D)
            for oh in range(OH):
                h0 = oh * sh - ph
                kh0, kh1 = first_tap(h0, dh), after_last_tap(h0, KH, dh, H)
                if kd0 >= kd1 or kh0 >= kh1:
                    continue
                top, bottom = (d0 + kd0 * dd) * H + h0 + kh0 * dh, (d0 + (kd1 - 1) * dd) * H + h0 + (kh1 - 1) * dh
                if bottom < first or top >= end:
                    continue
                out = ((plane * OD + od) * OH + oh) * OW * inner
                slopes, winners = dy[out : out + OW * inner], argmax[out : out + OW * inner]
                origin = d0 * H + h0 - first
                for ow in range(OW):
                    w0 = ow * sw - pw
                    for c in range(inner):
                        offset = winners[ow * inner + c]
                        if small:
                            row, column = origin + row_of[offset], w0 + column_of[offset]
                        else:
                            row = origin + offset // (KH * KW) * dd * H + offset // KW % KH * dh
                            column = w0 + offset % KW * dw
                        if 0 <= row < end - first and 0 <= column < W:
                            total[row * width + column * inner + c] += widened(slopes[ow * inner + c], infinity)
        if infinity is not None:
            for i in range(len(into)):
                into[i] = narrowed(total[i], infinity)
        at = plane * rows + end


@kernel(parallel=True)
def max_pool_backward_parallel(dy, argmax, dx, infinity, geometry, inner, units, chunks):
    for i in prange(chunks):
        max_pool_backward(
            dy, argmax, dx, infinity, geometry, inner, units * i // chunks, units * (i + 1) // chunks
        )


@kernel
def max_unpool(y, indices, x, start, stop):
    """Units are planes, (outer, cells, inner)."""
    for plane in range(start, stop):
        fill(x[plane].reshape(-1), 0)
        for i in range(y.shape[1]):
            for c in range(y.shape[2]):
                if indices[plane, i, c] >= 0:
                    x[plane, indices[plane, i, c], c] = y[plane, i, c]


@kernel(parallel=True)
def max_unpool_parallel(y, indices, x, units, chunks):
    for i in prange(chunks):
        max_unpool(y, indices, x, units * i // chunks, units * (i + 1) // chunks)
