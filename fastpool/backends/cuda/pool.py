"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Each function here makes a kernel for what its arguments say, which are constants to the compiler: a window's numbers
turn divisions into products, and its loops into straight code. What a kernel is called with are flat arrays and sizes.

A thread takes lanes of outputs: neighbouring channels where the channels lie last in memory, neighbouring positions of
a row where they lie first. Neighbouring threads take neighbouring lanes, so that a warp reads whole runs of memory.
"""

from __future__ import annotations

import numpy as np

from fastpool._rules import after_last_tap, after_last_window, first_tap, first_window, precedes, wins
from fastpool.backends.cuda.compilation import cuda, inlined, types
from fastpool.backends.cuda.lanes import (
    beside,
    every,
    first_of,
    lanes_of,
    larger,
    load,
    lowest,
    quotient,
    raise_to,
    ramp,
    store,
    where,
)

wins, precedes = inlined(wins), inlined(precedes)
first_window, after_last_window = inlined(first_window), inlined(after_last_window)
first_tap, after_last_tap = inlined(first_tap), inlined(after_last_tap)


@inlined
def split(i, n):
    """i as (quotient, remainder) by n, in the width of `n`. Not negative, either of them."""
    index = type(n)
    whole = quotient(index(i), n)
    return whole, index(i - whole * n)


@inlined
def inside(i, size):
    return (i >= 0) & (i < size)


@inlined
def tap_of_dilated(reach, dilation):
    """Which tap reaches that far into a window, and whether there is one."""
    tap = quotient(type(dilation)(reach), dilation)
    return tap, tap * dilation == reach


@inlined
def tap_of_dense(reach, dilation):
    """The same without dilation: no division."""
    return reach, True


def _window_of(window):
    """A function that says what a kernel's window is: a constant, or what the kernel is called with."""
    if window is None:
        return inlined(lambda given: given)
    return inlined(lambda given: window)


def by_cells(lanes, window, with_argmax, carried):
    """Pooling tap by tap. Lanes lie along `inner`, where all of them have the same taps.

    With `carried`, x is itself a maximum, over other axes of the window, and `carried` says who won it: an offset, in
    which a step of this window weighs `weight`.
    """
    window_of = _window_of(window)

    def max_pool(x, winners, y, argmax, given, sizes, weight, inner, units):
        index = type(units)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = window_of(given)
        D, H, W, OD, OH, OW = sizes
        segments = (inner + (lanes - 1)) // lanes
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            position, segment = split(unit, index(segments))
            c = index(segment * lanes)
            rest, ow = split(position, OW)
            rest, oh = split(rest, OH)
            outer, od = split(rest, OD)
            best = lanes_of(x, lowest(x))
            won = beside(best, index(0))
            found = False
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        row = index(((outer * D + d) * H + h) * W)
                        for kw in range(KW):
                            w = index(ow * sw - pw + kw * dw)
                            if inside(w, W):
                                run = index((row + w) * inner)
                                value = load(x, run, c, inner, 0, 0, lowest(x))
                                if with_argmax:
                                    offset = beside(best, index(((kd * KH + kh) * KW + kw) * weight))
                                    if carried:
                                        offset = offset + load(winners, run, c, inner, 0, 0, 0)
                                    takes = wins(value, best) | beside(best, not found)
                                    best, won = where(takes, value, best), where(takes, offset, won)
                                    found = True
                                else:
                                    best = larger(best, value)
            run = index(position * inner)
            store(y, run, c, inner, best)
            if with_argmax:
                store(argmax, run, c, inner, won)
            unit = index(unit + step)

    return max_pool


def _over_taps(kw, taps, stride):
    """Tap `kw` of every window and all taps behind it, unrolled: (best, won) after them."""
    if kw == taps:
        return inlined(lambda row, base, best, won: (best, won))
    behind = _over_taps(kw + 1, taps, stride)

    @inlined
    def over_taps(row, base, best, won):
        value = every(row, kw, stride, best)
        takes = wins(value, best)
        return behind(row, base, where(takes, value, best), where(takes, beside(best, type(base)(base + kw)), won))

    return over_taps


def _largest_of_taps(kw, taps, stride):
    """The largest of tap `kw` of every window and all taps behind it, unrolled."""
    if kw == taps:
        return inlined(lambda row, best: best)
    behind = _largest_of_taps(kw + 1, taps, stride)
    return inlined(lambda row, best: behind(row, larger(best, every(row, kw, stride, best))))


@inlined
def windows_of(unit, segments, lanes, OD, OH):
    """Where the windows of a unit are, which are lanes of one of the `segments` of a row: the row among all, its outer
    place, slice and row, and the first window in it.
    """
    position, segment = split(unit, segments)
    rest, oh = split(position, OH)
    outer, od = split(rest, OD)
    return position, outer, od, oh, type(unit)(segment * lanes)


def largest_by_rows(lanes, window):
    """Maxima alone, along rows, `inner` being 1 and the taps neighbours: down the columns first, then along the row.

    So each row that is loaded costs one comparison for each of its numbers, however wide the windows are.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = window
    behind = max(KW - sw - pw, 0)
    largest_of_taps = _largest_of_taps(0, KW, sw)

    def max_pool(x, y, sizes, units):
        index = type(units)
        D, H, W, OD, OH, OW = sizes
        segments = index((OW + (lanes - 1)) // lanes)
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            position, outer, od, oh, ow = windows_of(unit, segments, lanes, OD, OH)
            # A run of no numbers: the lowest in all lanes.
            row = load(x, index(0), index(0), index(0), pw, behind, lowest(x))
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        run = index(((outer * D + d) * H + h) * W)
                        row = larger(row, load(x, run, index(ow * sw), W, pw, behind, lowest(x)))
            best = largest_of_taps(row, lanes_of(y, lowest(y)))
            store(y, index(position * OW), ow, OW, best)
            unit = index(unit + step)

    return max_pool


def by_rows(lanes, window):
    """Maxima and their argmax along rows, `inner` being 1 and the taps neighbours: a row is loaded for all windows."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = window
    behind, back = max(KW - sw - pw, 0), -sw
    over_taps = _over_taps(0, KW, sw)

    def max_pool(x, y, argmax, sizes, units):
        index = type(units)
        D, H, W, OD, OH, OW = sizes
        segments = index((OW + (lanes - 1)) // lanes)
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            position, outer, od, oh, ow = windows_of(unit, segments, lanes, OD, OH)
            best = lanes_of(y, lowest(y))
            won = beside(best, index(0))
            # How many taps of each window lie in front of the row. A window of padding alone has no first tap.
            first = ramp(best, index(pw - ow * sw), back)
            alone = (beside(best, index(KW)) <= first) | (first <= beside(best, index(-W)))
            first = where(first < won, won, first)
            found = False
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        base = index((kd * KH + kh) * KW)
                        if not found:
                            won = where(alone, won, first + beside(best, base))
                            found = True
                        run = index(((outer * D + d) * H + h) * W)
                        row = load(x, run, index(ow * sw), W, pw, behind, lowest(x))
                        best, won = over_taps(row, base, best, won)
            run = index(position * OW)
            store(y, run, ow, OW, best)
            store(argmax, run, ow, OW, won)
            unit = index(unit + step)

    return max_pool


def by_blocks(threads, number, offset_number, with_argmax, channels_last):
    """Pooling of large windows that hardly overlap, each shared by the `parts` of a block of threads.

    A block takes `across` windows: of neighbouring channels, where these lie last, or else of neighbouring positions.
    Neighbouring threads take neighbours in memory: channels, or taps.
    """

    def max_pool(x, y, argmax, given, sizes, inner, across, outputs, blocks):
        index = type(blocks)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = given
        D, H, W, OD, OH, OW = sizes
        bests = cuda.shared.array(threads, number)
        wons = cuda.shared.array(threads, offset_number)
        thread = index(cuda.threadIdx.x)
        parts = quotient(index(threads), across)
        if channels_last:
            part, column = split(thread, across)
            apart = across
        else:
            column, part = split(thread, parts)
            apart = index(1)
        # The taps of one thread lie `parts` apart: as so many columns, rows and slices of the window.
        rows, columns = split(parts, KW)
        slices, rows = split(rows, KH)
        block, step = index(cuda.blockIdx.x), index(cuda.gridDim.x)
        while block < blocks:
            if channels_last:
                position, segment = split(block, quotient(index(inner + across - 1), across))
                c = index(segment * across + column)
                real = c < inner
            else:
                position, c = index(block * across + column), index(0)
                real = position < outputs
            rest, ow = split(position, OW)
            rest, oh = split(rest, OH)
            outer, od = split(rest, OD)
            best, won, found = lowest(x), index(0), False
            rest, kw = split(part, KW)
            kd, kh = split(rest, KH)
            while (kd < KD) & real:
                d, h, w = index(od * sd - pd + kd * dd), index(oh * sh - ph + kh * dh), index(ow * sw - pw + kw * dw)
                if inside(d, D) & inside(h, H) & inside(w, W):
                    run = index((((outer * D + d) * H + h) * W + w) * inner)
                    value = first_of(load(x, run, c, inner, 0, 0, lowest(x)))
                    if wins(value, best) | (not found):
                        best, won, found = value, index((kd * KH + kh) * KW + kw), True
                kw, kh, kd = index(kw + columns), index(kh + rows), index(kd + slices)
                if kw >= KW:
                    kw, kh = index(kw - KW), index(kh + 1)
                if kh >= KH:
                    kh, kd = index(kh - KH), index(kd + 1)
            # Who has found no cell has an offset behind all, so that it cannot come first in a tie.
            bests[thread], wons[thread] = best, won if found else index(KD * KH * KW)
            cuda.syncthreads()
            half = index(parts >> 1)
            while half > 0:
                if part < half:
                    other = index(thread + half * apart)
                    if precedes(bests[other], wons[other], bests[thread], wons[thread]):
                        bests[thread], wons[thread] = bests[other], wons[other]
                cuda.syncthreads()
                half = index(half >> 1)
            if (part == 0) & real:
                run = index(position * inner)
                won = wons[thread] if wons[thread] < KD * KH * KW else index(0)
                store(y, run, c, inner, lanes_of(y, bests[thread]))
                if with_argmax:
                    store(argmax, run, c, inner, lanes_of(argmax, won))
            cuda.syncthreads()
            block = index(block + step)

    return max_pool


def backward_by_cells(lanes, window, dilated):
    """The gradient, gathered: each cell sums over the windows that cover it and that it won, in row-major order."""
    window_of = _window_of(window)
    tap_of = tap_of_dilated if dilated else tap_of_dense

    def max_pool_backward(dy, argmax, dx, given, sizes, inner, units):
        index = type(units)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = window_of(given)
        D, H, W, OD, OH, OW = sizes
        segments = index((inner + (lanes - 1)) // lanes)
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            cell, segment = split(unit, segments)
            c = index(segment * lanes)
            rest, w = split(cell, W)
            rest, h = split(rest, H)
            outer, d = split(rest, D)
            total = zero = lanes_of(dx, 0)
            last_d, last_h, last_w = (
                index(after_last_window(d, sd, pd, OD)),
                index(after_last_window(h, sh, ph, OH)),
                index(after_last_window(w, sw, pw, OW)),
            )
            od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
            while od < last_d:
                kd, reached_d = tap_of(d + pd - od * sd, dd)
                oh = index(first_window(h, (KH - 1) * dh + 1, sh, ph))
                while oh < last_h:
                    kh, reached_h = tap_of(h + ph - oh * sh, dh)
                    ow = index(first_window(w, (KW - 1) * dw + 1, sw, pw))
                    while ow < last_w:
                        kw, reached_w = tap_of(w + pw - ow * sw, dw)
                        if reached_d & reached_h & reached_w:
                            run = index((((outer * OD + od) * OH + oh) * OW + ow) * inner)
                            chosen = load(argmax, run, c, inner, 0, 0, -1)
                            mine = chosen == beside(chosen, index((kd * KH + kh) * KW + kw))
                            total = total + where(mine, load(dy, run, c, inner, 0, 0, 0), zero)
                        ow = index(ow + 1)
                    oh = index(oh + 1)
                od = index(od + 1)
            store(dx, index(cell * inner), c, inner, total)
            unit = index(unit + step)

    return max_pool_backward


def backward_by_planes(lanes, capacity, threads):
    """The gradient of large windows, `inner` being 1. A block takes whole planes.

    The cell that won each window is kept in shared memory. A thread takes lanes of dx and goes through the windows that
    cover them, in row-major order: what is left to do for a window is one comparison.
    """

    def max_pool_backward(dy, argmax, dx, given, sizes, planes, outer, blocks):
        index = type(blocks)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = given
        D, H, W, OD, OH, OW = sizes
        chosen = cuda.shared.array(capacity, types.int32)
        positions, segments = index(OD * OH * OW), quotient(index(W + (lanes - 1)), index(lanes))
        thread, block, step = index(cuda.threadIdx.x), index(cuda.blockIdx.x), index(cuda.gridDim.x)
        while block < blocks:
            first_plane = index(block * planes)
            count = index(min(planes, outer - first_plane))
            i = thread
            while i < count * positions:
                rest, ow = split(i, OW)
                rest, oh = split(rest, OH)
                _, od = split(rest, OD)
                offset = load(argmax, index(first_plane * positions), i, index(count * positions), 0, 0, 0)
                rest, kw = split(first_of(offset), KW)
                kd, kh = split(rest, KH)
                d, h, w = index(od * sd - pd + kd * dd), index(oh * sh - ph + kh * dh), index(ow * sw - pw + kw * dw)
                real = (kd < KD) & inside(d, D) & inside(h, H) & inside(w, W)
                chosen[i] = types.int32((d * H + h) * W + w if real else -1)
                i = index(i + threads)
            cuda.syncthreads()
            i = thread
            while i < count * D * H * segments:
                row, segment = split(i, segments)
                w = index(segment * lanes)
                rest, h = split(row, H)
                plane, d = split(rest, D)
                total = zero = lanes_of(dx, 0)
                cell = index((d * H + h) * W + w)
                end_d, end_h = index(after_last_window(d, sd, pd, OD)), index(after_last_window(h, sh, ph, OH))
                first_w = index(first_window(w, (KW - 1) * dw + 1, sw, pw))
                end_w = index(after_last_window(w + (lanes - 1), sw, pw, OW))
                od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
                while od < end_d:
                    oh = index(first_window(h, (KH - 1) * dh + 1, sh, ph))
                    while oh < end_h:
                        run = index(((plane * OD + od) * OH + oh) * OW)
                        ow = first_w
                        while ow < end_w:
                            lane = index(chosen[run + ow]) - cell
                            if (lane >= 0) & (lane < lanes):
                                slope = load(
                                    dy, index(first_plane * positions), index(run + ow), index(run + ow + 1), 0, 0, 0
                                )
                                mine = ramp(total, index(0), 1) == beside(total, index(lane))
                                total = total + where(mine, beside(total, first_of(slope)), zero)
                            ow = index(ow + 1)
                        oh = index(oh + 1)
                    od = index(od + 1)
                store(dx, index((first_plane * D * H + row) * W), w, W, total)
                i = index(i + threads)
            cuda.syncthreads()
            block = index(block + step)

    return max_pool_backward


def _over_windows(j, last, place, taps, stride, before):
    """The sum over window `j`, counted from where the lanes begin, and all windows behind it, unrolled."""
    if j > last:
        return inlined(lambda slopes, chosen, base, zero, total: total)
    behind = _over_windows(j + 1, last, place + 1, taps, stride, before)
    start = before - j * stride

    @inlined
    def over_windows(slopes, chosen, base, zero, total):
        tap = ramp(total, type(base)(start), 1)
        reached = (beside(total, type(base)(0)) <= tap) & (tap < beside(total, type(base)(taps)))
        mine = reached & (every(chosen, place, 0, total) == tap + beside(total, base))
        slope = where(mine, every(slopes, place, 0, total), zero)
        return behind(slopes, chosen, base, zero, total + slope)

    return over_windows


def backward_by_rows(lanes, window):
    """The same along rows, `inner` being 1 and the taps neighbours. The lanes of dx are a multiple of the stride."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = window
    windows, tap_of = lanes // sw, tap_of_dilated if dd > 1 or dh > 1 else tap_of_dense
    first, last = -((KW - 1 - pw) // sw), (lanes - 1 + pw) // sw
    ahead, behind = max(-first, 0), max(last - windows + 1, 0)
    over_windows = _over_windows(first, last, ahead + first, KW, sw, pw)

    def max_pool_backward(dy, argmax, dx, sizes, units):
        index = type(units)
        D, H, W, OD, OH, OW = sizes
        segments = index((W + (lanes - 1)) // lanes)
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            row, segment = split(unit, segments)
            rest, h = split(row, H)
            outer, d = split(rest, D)
            total = zero = lanes_of(dx, 0)
            last_d, last_h = index(after_last_window(d, sd, pd, OD)), index(after_last_window(h, sh, ph, OH))
            od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
            while od < last_d:
                kd, reached_d = tap_of(d + pd - od * sd, dd)
                oh = index(first_window(h, (KH - 1) * dh + 1, sh, ph))
                while oh < last_h:
                    kh, reached_h = tap_of(h + ph - oh * sh, dh)
                    if reached_d & reached_h:
                        run, ow = index(((outer * OD + od) * OH + oh) * OW), index(segment * windows)
                        slopes = load(dy, run, ow, OW, ahead, behind, 0)
                        chosen = load(argmax, run, ow, OW, ahead, behind, -1)
                        total = over_windows(slopes, chosen, index((kd * KH + kh) * KW), zero, total)
                    oh = index(oh + 1)
                od = index(od + 1)
            store(dx, index(row * W), index(segment * lanes), W, total)
            unit = index(unit + step)

    return max_pool_backward


def misplaced(argmax, found, given, sizes, inner, units):
    """found[0] = 1 if an offset names no real cell of its window; a window of padding alone has the offset 0."""
    index = type(units)
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = given
    D, H, W, OD, OH, OW = sizes
    unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while unit < units:
        rest, ow = split(index(unit // inner), OW)
        rest, oh = split(rest, OH)
        od = rest % OD
        d, h, w = od * sd - pd, oh * sh - ph, ow * sw - pw
        offset = index(argmax[unit])
        rest, kw = split(offset, KW)
        kd, kh = split(rest, KH)
        real = (kd < KD) & inside(d + kd * dd, D) & inside(h + kh * dh, H) & inside(w + kw * dw, W)
        alone = (
            (first_tap(d, dd) >= after_last_tap(d, KD, dd, D))
            | (first_tap(h, dh) >= after_last_tap(h, KH, dh, H))
            | (first_tap(w, dw) >= after_last_tap(w, KW, dw, W))
        )
        if not (real | (alone & (offset == 0))):
            found[0] = 1
        unit = index(unit + step)


def clear(p, units):
    """Zeros."""
    index = type(units)
    unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while unit < units:
        p[unit] = 0
        unit = index(unit + step)


def mark(convention):
    """Note at each cell which value goes there, counted from 1: of several the last, whoever comes first."""

    def mark_cells(indices, marks, given, sizes, channels, inner, units):
        index = type(units)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = given
        D, H, W, OD, OH, OW = sizes
        plane, positions = D * H * W, OD * OH * OW
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            rest, within = split(unit, inner)
            outer, position = split(rest, index(positions))
            image_channel = outer if inner == 1 else outer * inner + within
            cell = np.int64(indices[unit])
            if convention == "onnx":
                cell = cell - image_channel * plane
            elif convention == "tensorflow":
                # An index of another channel is none of this plane's.
                cell = cell - image_channel % channels
                cell = cell // channels if (cell >= 0) & (cell % channels == 0) else -1
            elif convention == "chainer":
                rest, ow = split(index(position), OW)
                od, oh = split(rest, OH)
                rest, kw = split(index(cell), KW)
                kd, kh = split(rest, KH)
                d, h, w = od * sd - pd + kd * dd, oh * sh - ph + kh * dh, ow * sw - pw + kw * dw
                real = (cell >= 0) & (kd < KD) & inside(d, D) & inside(h, H) & inside(w, W)
                cell = (d * H + h) * W + w if real else -1
            if inside(cell, plane):
                raise_to(marks, index((outer * plane + cell) * inner + within), index(position + 1))
            unit = index(unit + step)

    return mark_cells


def unpool(y, marks, x, plane, positions, inner, units):
    """The value that was noted for each cell, or 0."""
    index = type(units)
    unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while unit < units:
        rest, within = split(unit, inner)
        outer = index(rest // plane)
        mark = marks[unit]
        x[unit] = 0
        if mark > 0:
            x[unit] = y[index((outer * positions + mark - 1) * inner + within)]
        unit = index(unit + step)
