"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Each function here makes a kernel. The function's arguments are constants to the compiler: with a constant geometry of
the window, it turns divisions into multiplications and unrolls loops. The arguments of the kernel are flat arrays and
sizes.

A work item is a vector of outputs: neighbouring channels if channels are last in memory, else neighbouring positions of
a row. Neighbouring threads take neighbouring vectors, so that a warp reads contiguous memory.
"""

from __future__ import annotations

import numpy as np

from fastpool._rules import after_last_tap, after_last_window, first_tap, first_window, precedes, wins
from fastpool.backends.cuda.compilation import cuda, inlined, types
from fastpool.backends.cuda.vectors import (
    arange_like,
    atomic_max,
    first_element,
    floor_divide,
    load,
    lowest,
    maximum,
    splat,
    splat_for,
    store,
    take_strided,
    where,
)

wins, precedes = inlined(wins), inlined(precedes)
first_window, after_last_window = inlined(first_window), inlined(after_last_window)
first_tap, after_last_tap = inlined(first_tap), inlined(after_last_tap)


@inlined
def split(i, n):
    """The quotient and the remainder of i by n, in the dtype of `n`. Neither i nor n is negative."""
    index = type(n)
    quotient = floor_divide(index(i), n)
    return quotient, index(i - quotient * n)


@inlined
def inside(i, size):
    return (i >= 0) & (i < size)


@inlined
def tap_of_dilated(reach, dilation):
    """The tap at a distance of `reach` from the begin of a window, and whether there is one."""
    tap = floor_divide(type(dilation)(reach), dilation)
    return tap, tap * dilation == reach


@inlined
def tap_of_dense(reach, dilation):
    """`tap_of_dilated` for a dilation of 1, without a division."""
    return reach, True


def _geometry_of(constant):
    """A function of a kernel's argument that returns its geometry: the constant, or the argument if that is None."""
    if constant is None:
        return inlined(lambda geometry: geometry)
    return inlined(lambda geometry: constant)


def by_cells(width, constant, with_argmax, carried):
    """Pooling tap by tap. A vector lies along `inner`, so that all its elements have the same taps.

    With `carried`, x is the maximum over earlier axes of the window, and `carried_argmax` holds the offsets of these
    maxima. One tap along the axis of this pass adds `weight` to an offset.
    """
    geometry_of = _geometry_of(constant)

    def max_pool(x, carried_argmax, y, argmax, geometry, sizes, weight, inner, items):
        index = type(items)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry_of(geometry)
        D, H, W, OD, OH, OW = sizes
        segments = (inner + (width - 1)) // width
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            position, segment = split(item, index(segments))
            c = index(segment * width)
            rest, ow = split(position, OW)
            rest, oh = split(rest, OH)
            outer, od = split(rest, OD)
            best = splat_for(x, lowest(x))
            best_offset = splat(best, index(0))
            found = False
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        first_cell = index(((outer * D + d) * H + h) * W)
                        for kw in range(KW):
                            w = index(ow * sw - pw + kw * dw)
                            if inside(w, W):
                                row_start = index((first_cell + w) * inner)
                                value = load(x, row_start, c, inner, 0, 0, lowest(x))
                                if with_argmax:
                                    offset = splat(best, index(((kd * KH + kh) * KW + kw) * weight))
                                    if carried:
                                        offset = offset + load(carried_argmax, row_start, c, inner, 0, 0, 0)
                                    takes = wins(value, best) | splat(best, not found)
                                    best, best_offset = where(takes, value, best), where(takes, offset, best_offset)
                                    found = True
                                else:
                                    best = maximum(best, value)
            row_start = index(position * inner)
            store(y, row_start, c, inner, best)
            if with_argmax:
                store(argmax, row_start, c, inner, best_offset)
            item = index(item + step)

    return max_pool


def _over_taps(kw, taps, stride):
    """A function that takes tap `kw` and all later taps of each window into (best, best_offset), unrolled."""
    if kw == taps:
        return inlined(lambda row, base, best, best_offset: (best, best_offset))
    later_taps = _over_taps(kw + 1, taps, stride)

    @inlined
    def over_taps(row, base, best, best_offset):
        value = take_strided(row, kw, stride, best)
        takes = wins(value, best)
        best = where(takes, value, best)
        best_offset = where(takes, splat(best, type(base)(base + kw)), best_offset)
        return later_taps(row, base, best, best_offset)

    return over_taps


def _maximum_of_taps(kw, taps, stride):
    """A function that gives the maximum of tap `kw` and all later taps of each window, unrolled."""
    if kw == taps:
        return inlined(lambda row, best: best)
    later_taps = _maximum_of_taps(kw + 1, taps, stride)
    return inlined(lambda row, best: later_taps(row, maximum(best, take_strided(row, kw, stride, best))))


@inlined
def windows_of(item, segments, width, OD, OH):
    """The windows of a work item, which is one of the `segments` of a row of windows, each a vector wide.

    Returns the index of the row among all rows, its outer index, its slice (od), its row in the slice (oh), and the
    column of the first window (ow).
    """
    position, segment = split(item, segments)
    rest, oh = split(position, OH)
    outer, od = split(rest, OD)
    return position, outer, od, oh, type(item)(segment * width)


def maximum_by_rows(width, geometry):
    """Maxima without argmax, vectors along rows, for an `inner` of 1 and no dilation along the row.

    The maximum is taken over slices and rows first, then along the row: each row that is loaded costs one comparison
    per element, whatever the width of the windows.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = geometry
    after = max(KW - sw - pw, 0)
    maximum_of_taps = _maximum_of_taps(0, KW, sw)

    def max_pool(x, y, sizes, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        segments = index((OW + (width - 1)) // width)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            position, outer, od, oh, ow = windows_of(item, segments, width, OD, OH)
            # A row of size 0 has no elements, so that this vector is `lowest` throughout.
            row = load(x, index(0), index(0), index(0), pw, after, lowest(x))
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        row_start = index(((outer * D + d) * H + h) * W)
                        row = maximum(row, load(x, row_start, index(ow * sw), W, pw, after, lowest(x)))
            best = maximum_of_taps(row, splat_for(y, lowest(y)))
            store(y, index(position * OW), ow, OW, best)
            item = index(item + step)

    return max_pool


def argmax_by_rows(width, geometry):
    """Maxima and argmax, vectors along rows, for an `inner` of 1 and no dilation along the row.

    One load brings the taps that all windows of a work item have in a row.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = geometry
    after, per_window = max(KW - sw - pw, 0), -sw
    over_taps = _over_taps(0, KW, sw)

    def max_pool(x, y, argmax, sizes, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        segments = index((OW + (width - 1)) // width)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            position, outer, od, oh, ow = windows_of(item, segments, width, OD, OH)
            best = splat_for(y, lowest(y))
            best_offset = splat(best, index(0))
            # `first` is the first tap of each window that is not padding along the row, if the window has one.
            first = arange_like(best, index(pw - ow * sw), per_window)
            only_padding = (splat(best, index(KW)) <= first) | (first <= splat(best, index(-W)))
            first = where(first < best_offset, best_offset, first)
            found = False
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    if inside(d, D) & inside(h, H):
                        base = index((kd * KH + kh) * KW)
                        if not found:
                            best_offset = where(only_padding, best_offset, first + splat(best, base))
                            found = True
                        row_start = index(((outer * D + d) * H + h) * W)
                        row = load(x, row_start, index(ow * sw), W, pw, after, lowest(x))
                        best, best_offset = over_taps(row, base, best, best_offset)
            row_start = index(position * OW)
            store(y, row_start, ow, OW, best)
            store(argmax, row_start, ow, OW, best_offset)
            item = index(item + step)

    return max_pool


def by_blocks(threads, dtype, offset_dtype, with_argmax, channels_last):
    """Pooling of large windows that hardly overlap. Several threads share a window, each of which has a `rank` in it.

    A block takes `windows_per_block` windows: of neighbouring channels if channels are last, else of neighbouring
    positions. Neighbouring threads read neighbouring elements: of channels, or of taps.
    """

    def max_pool(x, y, argmax, geometry, sizes, inner, windows_per_block, outputs, blocks):
        index = type(blocks)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
        D, H, W, OD, OH, OW = sizes
        thread_best = cuda.shared.array(threads, dtype)
        thread_argmax = cuda.shared.array(threads, offset_dtype)
        thread = index(cuda.threadIdx.x)
        threads_per_window = floor_divide(index(threads), windows_per_block)
        if channels_last:
            rank, window = split(thread, windows_per_block)
            rank_stride = windows_per_block
        else:
            window, rank = split(thread, threads_per_window)
            rank_stride = index(1)
        # The taps of a thread are `threads_per_window` apart, which is this many slices, rows and columns.
        step_h, step_w = split(threads_per_window, KW)
        step_d, step_h = split(step_h, KH)
        block, step = index(cuda.blockIdx.x), index(cuda.gridDim.x)
        while block < blocks:
            if channels_last:
                position, segment = split(block, floor_divide(index(inner + windows_per_block - 1), windows_per_block))
                c = index(segment * windows_per_block + window)
                real = c < inner
            else:
                position, c = index(block * windows_per_block + window), index(0)
                real = position < outputs
            rest, ow = split(position, OW)
            rest, oh = split(rest, OH)
            outer, od = split(rest, OD)
            best, best_offset, found = lowest(x), index(0), False
            rest, kw = split(rank, KW)
            kd, kh = split(rest, KH)
            while (kd < KD) & real:
                d, h, w = index(od * sd - pd + kd * dd), index(oh * sh - ph + kh * dh), index(ow * sw - pw + kw * dw)
                if inside(d, D) & inside(h, H) & inside(w, W):
                    row_start = index((((outer * D + d) * H + h) * W + w) * inner)
                    value = first_element(load(x, row_start, c, inner, 0, 0, lowest(x)))
                    if wins(value, best) | (not found):
                        best, best_offset, found = value, index((kd * KH + kh) * KW + kw), True
                kw, kh, kd = index(kw + step_w), index(kh + step_h), index(kd + step_d)
                if kw >= KW:
                    kw, kh = index(kw - KW), index(kh + 1)
                if kh >= KH:
                    kh, kd = index(kh - KH), index(kd + 1)
            # A thread that found no cell has an offset beyond all taps, so that it loses every tie.
            thread_best[thread], thread_argmax[thread] = best, best_offset if found else index(KD * KH * KW)
            cuda.syncthreads()
            half = index(threads_per_window >> 1)
            while half > 0:
                if rank < half:
                    other = index(thread + half * rank_stride)
                    if precedes(thread_best[other], thread_argmax[other], thread_best[thread], thread_argmax[thread]):
                        thread_best[thread], thread_argmax[thread] = thread_best[other], thread_argmax[other]
                cuda.syncthreads()
                half = index(half >> 1)
            if (rank == 0) & real:
                row_start = index(position * inner)
                best_offset = thread_argmax[thread] if thread_argmax[thread] < KD * KH * KW else index(0)
                store(y, row_start, c, inner, splat_for(y, thread_best[thread]))
                if with_argmax:
                    store(argmax, row_start, c, inner, splat_for(argmax, best_offset))
            cuda.syncthreads()
            block = index(block + step)

    return max_pool


def backward_by_cells(width, constant, dilated):
    """The gradient, gathered: each cell sums dy over the windows whose maximum it is, in row-major order."""
    geometry_of = _geometry_of(constant)
    tap_of = tap_of_dilated if dilated else tap_of_dense

    def max_pool_backward(dy, argmax, dx, geometry, sizes, inner, items):
        index = type(items)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry_of(geometry)
        D, H, W, OD, OH, OW = sizes
        segments = index((inner + (width - 1)) // width)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            cell, segment = split(item, segments)
            c = index(segment * width)
            rest, w = split(cell, W)
            rest, h = split(rest, H)
            outer, d = split(rest, D)
            total = zero = splat_for(dx, 0)
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
                            row_start = index((((outer * OD + od) * OH + oh) * OW + ow) * inner)
                            offset = load(argmax, row_start, c, inner, 0, 0, -1)
                            is_winner = offset == splat(offset, index((kd * KH + kh) * KW + kw))
                            total = total + where(is_winner, load(dy, row_start, c, inner, 0, 0, 0), zero)
                        ow = index(ow + 1)
                    oh = index(oh + 1)
                od = index(od + 1)
            store(dx, index(cell * inner), c, inner, total)
            item = index(item + step)

    return max_pool_backward


def backward_by_planes(width, capacity, threads):
    """The gradient of large windows, for an `inner` of 1. A block takes whole planes.

    Shared memory holds the index in its plane of each window's winner. A thread takes a vector of dx and visits the
    windows that cover it, in row-major order: each costs one comparison.
    """

    def max_pool_backward(dy, argmax, dx, geometry, sizes, planes, outer, blocks):
        index = type(blocks)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
        D, H, W, OD, OH, OW = sizes
        winner_cell = cuda.shared.array(capacity, types.int32)
        positions, segments = index(OD * OH * OW), floor_divide(index(W + (width - 1)), index(width))
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
                rest, kw = split(first_element(offset), KW)
                kd, kh = split(rest, KH)
                d, h, w = index(od * sd - pd + kd * dd), index(oh * sh - ph + kh * dh), index(ow * sw - pw + kw * dw)
                real = (kd < KD) & inside(d, D) & inside(h, H) & inside(w, W)
                winner_cell[i] = types.int32((d * H + h) * W + w if real else -1)
                i = index(i + threads)
            cuda.syncthreads()
            i = thread
            while i < count * D * H * segments:
                row, segment = split(i, segments)
                w = index(segment * width)
                rest, h = split(row, H)
                plane, d = split(rest, D)
                total = zero = splat_for(dx, 0)
                cell = index((d * H + h) * W + w)
                end_d, end_h = index(after_last_window(d, sd, pd, OD)), index(after_last_window(h, sh, ph, OH))
                first_w = index(first_window(w, (KW - 1) * dw + 1, sw, pw))
                end_w = index(after_last_window(w + (width - 1), sw, pw, OW))
                od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
                while od < end_d:
                    oh = index(first_window(h, (KH - 1) * dh + 1, sh, ph))
                    while oh < end_h:
                        row_start = index(((plane * OD + od) * OH + oh) * OW)
                        ow = first_w
                        while ow < end_w:
                            element = index(winner_cell[row_start + ow]) - cell
                            if (element >= 0) & (element < width):
                                first, i_dy = index(first_plane * positions), index(row_start + ow)
                                grad = load(dy, first, i_dy, index(row_start + ow + 1), 0, 0, 0)
                                is_winner = arange_like(total, index(0), 1) == splat(total, index(element))
                                total = total + where(is_winner, splat(total, first_element(grad)), zero)
                            ow = index(ow + 1)
                        oh = index(oh + 1)
                    od = index(od + 1)
                store(dx, index((first_plane * D * H + row) * W), w, W, total)
                i = index(i + threads)
            cuda.syncthreads()
            block = index(block + step)

    return max_pool_backward


def _over_windows(j, last, position, taps, stride, padding):
    """A function that adds the gradients of window `j` and all later windows to a vector of dx, unrolled.

    Window 0 begins at the first cell of the vector, less the padding; window `last` is the last that reaches the
    vector. `position` is the element of the loaded vectors of dy and argmax that belongs to window `j`.
    """
    if j > last:
        return inlined(lambda grads, offsets, base, zero, total: total)
    later_windows = _over_windows(j + 1, last, position + 1, taps, stride, padding)
    first_tap_of_vector = padding - j * stride

    @inlined
    def over_windows(grads, offsets, base, zero, total):
        tap = arange_like(total, type(base)(first_tap_of_vector), 1)
        reached = (splat(total, type(base)(0)) <= tap) & (tap < splat(total, type(base)(taps)))
        is_winner = reached & (take_strided(offsets, position, 0, total) == tap + splat(total, base))
        grad = where(is_winner, take_strided(grads, position, 0, total), zero)
        return later_windows(grads, offsets, base, zero, total + grad)

    return over_windows


def backward_by_rows(width, geometry):
    """The gradient, vectors along rows, for an `inner` of 1 and no dilation along the row.

    The stride divides the width of a vector of dx.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = geometry
    windows, tap_of = width // sw, tap_of_dilated if dd > 1 or dh > 1 else tap_of_dense
    first, last = -((KW - 1 - pw) // sw), (width - 1 + pw) // sw
    before, after = max(-first, 0), max(last - windows + 1, 0)
    over_windows = _over_windows(first, last, before + first, KW, sw, pw)

    def max_pool_backward(dy, argmax, dx, sizes, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        segments = index((W + (width - 1)) // width)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            row, segment = split(item, segments)
            rest, h = split(row, H)
            outer, d = split(rest, D)
            total = zero = splat_for(dx, 0)
            last_d, last_h = index(after_last_window(d, sd, pd, OD)), index(after_last_window(h, sh, ph, OH))
            od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
            while od < last_d:
                kd, reached_d = tap_of(d + pd - od * sd, dd)
                oh = index(first_window(h, (KH - 1) * dh + 1, sh, ph))
                while oh < last_h:
                    kh, reached_h = tap_of(h + ph - oh * sh, dh)
                    if reached_d & reached_h:
                        row_start, ow = index(((outer * OD + od) * OH + oh) * OW), index(segment * windows)
                        grads = load(dy, row_start, ow, OW, before, after, 0)
                        offsets = load(argmax, row_start, ow, OW, before, after, -1)
                        total = over_windows(grads, offsets, index((kd * KH + kh) * KW), zero, total)
                    oh = index(oh + 1)
                od = index(od + 1)
            store(dx, index(row * W), index(segment * width), W, total)
            item = index(item + step)

    return max_pool_backward


def validate_argmax(argmax, invalid, geometry, sizes, inner, items):
    """invalid[0] = 1 if an offset names no real cell of its window. A window without a real cell must have offset 0."""
    index = type(items)
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
    D, H, W, OD, OH, OW = sizes
    item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while item < items:
        rest, ow = split(index(item // inner), OW)
        rest, oh = split(rest, OH)
        od = rest % OD
        d, h, w = od * sd - pd, oh * sh - ph, ow * sw - pw
        offset = index(argmax[item])
        rest, kw = split(offset, KW)
        kd, kh = split(rest, KH)
        real = (kd < KD) & inside(d + kd * dd, D) & inside(h + kh * dh, H) & inside(w + kw * dw, W)
        only_padding = (
            (first_tap(d, dd) >= after_last_tap(d, KD, dd, D))
            | (first_tap(h, dh) >= after_last_tap(h, KH, dh, H))
            | (first_tap(w, dw) >= after_last_tap(w, KW, dw, W))
        )
        if not (real | (only_padding & (offset == 0))):
            invalid[0] = 1
        item = index(item + step)


def clear(p, items):
    """Set all of `p` to 0."""
    index = type(items)
    item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while item < items:
        p[item] = 0
        item = index(item + step)


def mark(convention):
    """Write to each cell's mark the position of the value that goes there, plus 1; of several values, the last wins."""

    def mark_cells(indices, marks, geometry, sizes, channels, inner, items):
        index = type(items)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
        D, H, W, OD, OH, OW = sizes
        plane, positions = D * H * W, OD * OH * OW
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            rest, c = split(item, inner)
            outer, position = split(rest, index(positions))
            image_channel = outer if inner == 1 else outer * inner + c
            cell = np.int64(indices[item])
            if convention == "onnx":
                cell = cell - image_channel * plane
            elif convention == "tensorflow":
                # An index into another channel names no cell of this plane.
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
                atomic_max(marks, index((outer * plane + cell) * inner + c), index(position + 1))
            item = index(item + step)

    return mark_cells


def unpool(y, marks, x, plane, positions, inner, items):
    """Write to each cell the value that its mark names, or 0 if it has none."""
    index = type(items)
    item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
    while item < items:
        rest, c = split(item, inner)
        outer = index(rest // plane)
        mark = marks[item]
        x[item] = 0
        if mark > 0:
            x[item] = y[index((outer * positions + mark - 1) * inner + c)]
        item = index(item + step)
