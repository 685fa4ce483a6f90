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
from fastpool.backends.cuda.compilation import cuda, inlined
from fastpool.backends.cuda.vectors import (
    arange_like,
    atomic_max,
    constant,
    divide_by,
    first_element,
    floor_divide,
    load,
    lowest,
    maximum,
    not_negative,
    repeat,
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
def unravel(item, divisors):
    """The index of a work item along five axes, the last of which runs fastest, and its index along the first four.

    `divisors` are the counts of all axes but the first: see `launch.divisors`.
    """
    n1, multiplier1, shift1, n2, multiplier2, shift2, n3, multiplier3, shift3, n4, multiplier4, shift4 = divisors
    index = type(item)
    of_four = index(divide_by(item, n4, multiplier4, shift4))
    of_three = index(divide_by(of_four, n3, multiplier3, shift3))
    of_two = index(divide_by(of_three, n2, multiplier2, shift2))
    first = index(divide_by(of_two, n1, multiplier1, shift1))
    second, third = not_negative(index(of_two - first * n1)), not_negative(index(of_three - of_two * n2))
    fourth, fifth = not_negative(index(of_four - of_three * n3)), not_negative(index(item - of_four * n4))
    return first, second, third, fourth, fifth, of_four


@inlined
def inside(i, size):
    return (i >= 0) & (i < size)


@inlined
def taps_inside(start, kernel, dilation, size):
    """The first and the last tap of a window inside an axis; the first is greater where there is none."""
    index = type(size)
    return index(first_tap(start, dilation)), index(after_last_tap(start, kernel, dilation, size) - 1)


@inlined
def nearest_tap(tap, first, last):
    """The tap among `first` to `last` that is nearest to `tap`."""
    return min(max(type(first)(tap), first), last)


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

    A tap outside the input is replaced by the nearest one inside: the maximum is the same, and so is its offset, since
    the first of equal elements wins. So loads depend on no comparison.

    With `carried`, x is the maximum over earlier axes of the window, and `carried_argmax` holds the offsets of these
    maxima. One tap along the axis of this pass adds `weight` to an offset.
    """
    geometry_of = _geometry_of(constant)

    def max_pool(x, carried_argmax, y, argmax, geometry, sizes, weight, inner, divisors, items):
        index = type(items)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry_of(geometry)
        D, H, W, _, _, _ = sizes
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, od, oh, ow, segment, position = unravel(item, divisors)
            c = index(segment * width)
            start_d, start_h, start_w = index(od * sd - pd), index(oh * sh - ph), index(ow * sw - pw)
            first_d, last_d = taps_inside(start_d, KD, dd, D)
            first_h, last_h = taps_inside(start_h, KH, dh, H)
            first_w, last_w = taps_inside(start_w, KW, dw, W)
            best = splat_for(x, lowest(x))
            best_offset = splat(best, index(0))
            if (first_d <= last_d) & (first_h <= last_h) & (first_w <= last_w):
                found = False
                for kd in range(KD):
                    tap_d = nearest_tap(kd, first_d, last_d)
                    d = index(outer * D + start_d + tap_d * dd)
                    for kh in range(KH):
                        tap_h = nearest_tap(kh, first_h, last_h)
                        first_cell = index((d * H + start_h + tap_h * dh) * W + start_w)
                        for kw in range(KW):
                            tap_w = nearest_tap(kw, first_w, last_w)
                            row_start = index((first_cell + tap_w * dw) * inner)
                            value = load(x, row_start, c, inner, 0, 0, lowest(x))
                            if with_argmax:
                                offset = splat(best, index(((tap_d * KH + tap_h) * KW + tap_w) * weight))
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


def maximum_by_rows(width, geometry):
    """Maxima without argmax, vectors along rows, for an `inner` of 1 and no dilation along the row.

    The maximum is taken over slices and rows first, then along the row: each row that is loaded costs one comparison
    per element, whatever the width of the windows. As in `by_cells`, the nearest row inside stands for one outside.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, _ = geometry
    after = max(KW - sw - pw, 0)
    all_taps = constant([0] * (pw + width * sw + after))
    maximum_of_taps = _maximum_of_taps(0, KW, sw)

    def max_pool(x, y, sizes, divisors, items):
        index = type(items)
        D, H, W, _, _, OW = sizes
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, _, od, oh, segment, position = unravel(item, divisors)
            ow = index(segment * width)
            start_d, start_h = index(od * sd - pd), index(oh * sh - ph)
            first_d, last_d = taps_inside(start_d, KD, dd, D)
            first_h, last_h = taps_inside(start_h, KH, dh, H)
            best = splat_for(y, lowest(y))
            if (first_d <= last_d) & (first_h <= last_h):
                # The maximum of the row of which a load brings all taps of all windows.
                row = take_strided(best, 0, 0, all_taps(index(0)))
                for kd in range(KD):
                    d = index(outer * D + start_d + nearest_tap(kd, first_d, last_d) * dd)
                    for kh in range(KH):
                        h = index(start_h + nearest_tap(kh, first_h, last_h) * dh)
                        row_start = index((d * H + h) * W)
                        row = maximum(row, load(x, row_start, index(ow * sw), W, pw, after, lowest(x)))
                best = maximum_of_taps(row, best)
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

    def max_pool(x, y, argmax, sizes, divisors, items):
        index = type(items)
        D, H, W, _, _, OW = sizes
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, _, od, oh, segment, position = unravel(item, divisors)
            ow = index(segment * width)
            best = splat_for(y, lowest(y))
            best_offset = splat(best, index(0))
            # `first` is the first tap of each window that is not padding along the row, if the window has one.
            first = arange_like(best, index(pw - ow * sw), per_window)
            only_padding = (splat(best, index(KW)) <= first) | (first <= splat(best, index(-W)))
            first = where(first < best_offset, best_offset, first)
            start_d, start_h = index(od * sd - pd), index(oh * sh - ph)
            first_d, last_d = taps_inside(start_d, KD, dd, D)
            first_h, last_h = taps_inside(start_h, KH, dh, H)
            if (first_d <= last_d) & (first_h <= last_h):
                base = index((first_d * KH + first_h) * KW)
                best_offset = where(only_padding, best_offset, first + splat(best, base))
                for kd in range(KD):
                    tap_d = nearest_tap(kd, first_d, last_d)
                    d = index(outer * D + start_d + tap_d * dd)
                    for kh in range(KH):
                        tap_h = nearest_tap(kh, first_h, last_h)
                        row_start = index((d * H + start_h + tap_h * dh) * W)
                        row = load(x, row_start, index(ow * sw), W, pw, after, lowest(x))
                        base = index((tap_d * KH + tap_h) * KW)
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
            # A thread without an element has an offset beyond all taps, so that it loses every tie.
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
    """The gradient, gathered: each element sums dy over the windows whose argmax it is, in row-major order."""
    geometry_of = _geometry_of(constant)
    tap_of = tap_of_dilated if dilated else tap_of_dense

    def max_pool_backward(dy, argmax, dx, geometry, sizes, inner, divisors, items):
        index = type(items)
        KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry_of(geometry)
        _, _, _, OD, OH, OW = sizes
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, d, h, w, segment, cell = unravel(item, divisors)
            c = index(segment * width)
            total = splat_for(dx, 0)
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
                            total = where(is_winner, total + load(dy, row_start, c, inner, 0, 0, 0), total)
                        ow = index(ow + 1)
                    oh = index(oh + 1)
                od = index(od + 1)
            store(dx, index(cell * inner), c, inner, total)
            item = index(item + step)

    return max_pool_backward


def backward_nonoverlapping(width, kernel, along_rows):
    """The gradient of windows that partition their planes: the stride is the kernel size, without padding or dilation.

    A vector of dy and its argmax are read once, and all taps of their windows written. With `along_rows`, for an
    `inner` of 1, the taps of a row of the kernel are one vector of dx. The elements after the last windows are set to 0
    by work items whose windows do not exist.
    """
    KD, KH, KW = kernel
    taps_in_vector = KW if along_rows else 1
    tap_in_row = constant([k % taps_in_vector for k in range(width)])

    def max_pool_backward(dy, argmax, dx, sizes, inner, divisors, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        row, dy_row = (W, OW) if along_rows else (inner, inner)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, od, oh, ow, segment, _ = unravel(item, divisors)
            real = (od < OD) & (oh < OH) & (ow < OW)
            position = index((outer * OD + od) * OH + oh)
            if not along_rows:
                position = index(position * OW + ow)
            row_start, first, size = (
                index(position * dy_row),
                index(segment * (width // taps_in_vector)),
                dy_row if real else index(0),
            )
            grads = repeat(load(dy, row_start, first, size, 0, 0, 0), taps_in_vector)
            offsets = repeat(load(argmax, row_start, first, size, 0, 0, -1), taps_in_vector) - tap_in_row(index(0))
            zero, c = splat_for(dx, 0), index(segment * width)
            for kd in range(KD):
                for kh in range(KH):
                    d, h = index(od * KD + kd), index(oh * KH + kh)
                    cell = index((outer * D + d) * H + h)
                    for kw in range(KW // taps_in_vector):
                        w = index(ow * KW + kw)
                        if (d < D) & (h < H) & (w < W):
                            start = index(cell * W) if along_rows else index((cell * W + w) * inner)
                            is_winner = offsets == splat(offsets, index((kd * KH + kh) * KW + kw))
                            store(dx, start, c, row, where(is_winner, grads, zero))
            item = index(item + step)

    return max_pool_backward


def _add_at_argmax(k, width, kernel):
    """A function that adds the gradient of window `k` of a vector, and those of all later ones, at the argmax."""
    if k == width:
        return inlined(lambda total, plane_start, grads, offsets, sizes, start, steps: None)
    later_windows = _add_at_argmax(k + 1, width, kernel)
    KD, KH, KW = kernel

    @inlined
    def add_at_argmax(total, plane_start, grads, offsets, sizes, start, steps):
        index = type(plane_start)
        D, H, W, _, _, _ = sizes
        d, h, w = start
        dd, dh, dw, sw = steps
        offset = index(first_element(take_strided(offsets, k, 0, offsets)))
        rest, kw = split(offset, index(KW))
        kd, kh = split(rest, index(KH))
        d, h, w = index(d + kd * dd), index(h + kh * dh), index(w + k * sw + kw * dw)
        if (offset >= 0) & (kd < KD) & inside(d, D) & inside(h, H) & inside(w, W):
            total[index(plane_start + (d * H + h) * W + w)] += first_element(take_strided(grads, k, 0, grads))
        later_windows(total, plane_start, grads, offsets, sizes, start, steps)

    return add_at_argmax


def backward_by_planes(width, geometry, dtype, capacity):
    """The gradient of large windows. A thread takes a plane, whose sums lie in shared memory.

    It adds each gradient at the argmax of its window, in row-major order of the windows: a window costs the same
    whatever its size. It loads the next vector of windows before it needs it. A block takes `planes` planes, which lie
    `pitch` elements apart in shared memory; all its threads clear the sums and write them to dx.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
    add_at_argmax = _add_at_argmax(0, width, (KD, KH, KW))

    @inlined
    def load_windows(p, row_start, ow, OW, inner, fill):
        # A vector holds one window if inner > 1, so that windows may lie `inner` elements apart.
        return load(p, type(ow)(row_start + ow * (inner - 1)), ow, OW, 0, 0, fill)

    def max_pool_backward(dy, argmax, dx, sizes, inner, pitch, planes, total_planes, blocks):
        index = type(blocks)
        D, H, W, OD, OH, OW = sizes
        total = cuda.shared.array(capacity, dtype)
        cells, rows = index(D * H * W), index(OD * OH)
        thread, threads = index(cuda.threadIdx.x), index(cuda.blockDim.x)
        warp, lane, warps = index(thread >> 5), index(thread & 31), index(threads >> 5)
        steps = index(dd), index(dh), index(dw), index(sw)
        block, step = index(cuda.blockIdx.x), index(cuda.gridDim.x)
        while block < blocks:
            first_plane = index(block * planes)
            count = index(min(planes, total_planes - first_plane))
            i = thread
            while i < count * pitch:
                total[i] = 0
                i = index(i + threads)
            cuda.syncthreads()
            if thread < count:
                outer, c = split(index(first_plane + thread), inner)
                row = index(0)
                while row < rows:
                    od, oh = split(row, OH)
                    row_start, ow = index((outer * rows + row) * OW * inner + c), index(0)
                    grads = load_windows(dy, row_start, ow, OW, inner, 0)
                    offsets = load_windows(argmax, row_start, ow, OW, inner, -1)
                    while ow < OW:
                        next_ow = index(ow + width)
                        next_grads = load_windows(dy, row_start, next_ow, OW, inner, 0)
                        next_offsets = load_windows(argmax, row_start, next_ow, OW, inner, -1)
                        start = index(od * sd - pd), index(oh * sh - ph), index(ow * sw - pw)
                        add_at_argmax(total, index(thread * pitch), grads, offsets, sizes, start, steps)
                        grads, offsets, ow = next_grads, next_offsets, next_ow
                    row = index(row + 1)
            cuda.syncthreads()
            # Neighbouring threads write neighbouring elements: of a plane, or of the channels.
            plane, first_cell, plane_step, cell_step = lane, warp, index(32), warps
            if inner == 1:
                plane, first_cell, plane_step, cell_step = warp, lane, warps, index(32)
            while plane < count:
                outer, c = split(index(first_plane + plane), inner)
                cell = first_cell
                while cell < cells:
                    value = splat_for(dx, total[index(plane * pitch + cell)])
                    store(dx, index((outer * cells + cell) * inner + c), index(0), index(1), value)
                    cell = index(cell + cell_step)
                plane = index(plane + plane_step)
            cuda.syncthreads()
            block = index(block + step)

    return max_pool_backward


def _over_windows(i, last_i, position, j, rows, width, kernel, stride, padding):
    """A function that adds the gradients of window `i`, and of all later ones of its row, to a vector of dx, unrolled.

    The vector of dx holds `rows` rows of `width` elements. Window 0 of row 0 begins at its first element, less the
    padding; window `last_i` is the last that reaches the vector. `j` is the row of windows, and `position` the element
    of the loaded vectors of dy and argmax that belongs to window `i`.
    """
    if i > last_i:
        return inlined(lambda grads, offsets, base, total: total)
    later_windows = _over_windows(i + 1, last_i, position + 1, j, rows, width, kernel, stride, padding)
    taps, reached = [], []
    for row in range(rows):
        for column in range(width):
            kh, kw = row + padding[0] - j * stride[0], column + padding[1] - i * stride[1]
            reached.append(int(0 <= kh < kernel[0] and 0 <= kw < kernel[1]))
            taps.append(kh * kernel[1] + kw)
    taps, reached = constant(taps), constant(reached)

    @inlined
    def over_windows(grads, offsets, base, total):
        index = type(base)
        is_winner = take_strided(offsets, position, 0, total) - splat(total, base) == taps(index(0))
        is_winner = is_winner & (reached(index(0)) == splat(total, index(1)))
        total = where(is_winner, total + take_strided(grads, position, 0, total), total)
        return later_windows(grads, offsets, base, total)

    return over_windows


def _over_rows_of_windows(j, last_j, before, after, width, over_windows):
    """A function that adds the gradients of row `j` of windows, and of all later rows, to a vector of dx, unrolled.

    `over_windows` makes, of a row, the function that adds its gradients.
    """
    if j > last_j:
        return inlined(lambda dy, argmax, slice_start, first_oh, ow, OH, OW, base, total: total)
    of_this_row, later_rows = over_windows(j), _over_rows_of_windows(j + 1, last_j, before, after, width, over_windows)

    @inlined
    def over_rows(dy, argmax, slice_start, first_oh, ow, OH, OW, base, total):
        index = type(base)
        oh = index(first_oh + j)
        if inside(oh, OH):
            row_start = index((slice_start + oh) * OW)
            grads = load(dy, row_start, ow, OW, before, after, 0)
            offsets = load(argmax, row_start, ow, OW, before, after, -1)
            total = of_this_row(grads, offsets, base, total)
        return later_rows(dy, argmax, slice_start, first_oh, ow, OH, OW, base, total)

    return over_rows


def _store_rows(r, rows, width):
    """A function that stores row `r` of a vector of dx, and all later rows, where they lie in the plane."""
    if r == rows:
        return inlined(lambda dx, first_row, h, H, w, W, total: None)
    later_rows, first = _store_rows(r + 1, rows, width), r * width

    @inlined
    def store_rows(dx, first_row, h, H, w, W, total):
        if h + r < H:
            store(dx, type(h)((first_row + r) * W), w, W, take_strided(total, first, 1, splat_for(dx, 0)))
        later_rows(dx, first_row, h, H, w, W, total)

    return store_rows


def backward_by_rows(width, rows, geometry):
    """The gradient, vectors along rows, for an `inner` of 1 and no dilation along rows and columns.

    A work item is a vector of `rows` rows, so that each row of windows is loaded for several rows of dx. The strides
    divide the number of rows and the width of a vector.
    """
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, _, _ = geometry
    windows, tap_of = width // sw, tap_of_dilated if dd > 1 else tap_of_dense
    first_i, last_i = -((KW - 1 - pw) // sw), (width - 1 + pw) // sw
    first_j, last_j = -((KH - 1 - ph) // sh), (rows - 1 + ph) // sh
    before, after = max(-first_i, 0), max(last_i - windows + 1, 0)
    over_rows = _over_rows_of_windows(
        first_j,
        last_j,
        before,
        after,
        width,
        lambda j: _over_windows(first_i, last_i, before + first_i, j, rows, width, (KH, KW), (sh, sw), (ph, pw)),
    )
    store_rows, all_elements = _store_rows(0, rows, width), constant([0] * (rows * width))

    def max_pool_backward(dy, argmax, dx, sizes, divisors, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, _, d, group, segment, _ = unravel(item, divisors)
            h, ow = index(group * rows), index(segment * windows)
            total = take_strided(splat_for(dx, 0), 0, 0, all_elements(index(0)))
            last_d = index(after_last_window(d, sd, pd, OD))
            od = index(first_window(d, (KD - 1) * dd + 1, sd, pd))
            while od < last_d:
                kd, reached_d = tap_of(d + pd - od * sd, dd)
                if reached_d:
                    slice_start, first_oh = index((outer * OD + od) * OH), index(group * (rows // sh))
                    base = index(kd * KH * KW)
                    total = over_rows(dy, argmax, slice_start, first_oh, ow, OH, OW, base, total)
                od = index(od + 1)
            store_rows(dx, index((outer * D + d) * H + h), h, H, index(segment * width), W, total)
            item = index(item + step)

    return max_pool_backward


def validate_argmax(argmax, invalid, geometry, sizes, inner, items):
    """invalid[0] = 1 if an offset points into padding or outside its window. A window of only padding must have 0."""
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
    """Mark each element with the position of the value that goes there, plus 1; of several values, the last one."""
    with_batch = convention == "tensorflow_with_batch"
    channels_last = with_batch or convention == "tensorflow"

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
            elif channels_last:
                if with_batch:
                    cell = cell - (image_channel - image_channel % channels) * plane
                # An index into another channel is outside this plane.
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
    """Write to each element the value at its mark, or 0 without a mark."""
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
