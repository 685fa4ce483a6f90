"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Arrays arrive flat. A plane has rows of W * inner numbers, so that one loop serves both layouts.
"""

import numpy as np
from numba import prange

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
    where_it_lies,
    widened,
    wins,
)

BLOCK = 4096  # numbers in the cells of one block: what stays in the first-level cache


@inlined
def fill(row, value):
    for i in range(len(row)):
        row[i] = value


@inlined
def copy(out, row):
    for i in range(len(out)):
        out[i] = row[i]


@inlined
def larger(out, row):
    for i in range(len(out)):
        out[i] = maximum(out[i], row[i])


@inlined
def winners(out, offset, row, row_offset):
    """`larger` that also notes which row won; a later row needs more than a tie."""
    candidate = offset.dtype.type(row_offset)
    for i in range(len(out)):
        better = wins(row[i], out[i])
        out[i] = row[i] if better else out[i]
        offset[i] = candidate if better else offset[i]


@inlined
def first_winners(out, offset, row, row_offset, tap):
    """`winners` along a row: of two equal cells, the one with the smaller offset comes first in its window."""
    tap = offset.dtype.type(tap)
    for i in range(len(out)):
        candidate = offset.dtype.type(row_offset[i] + tap)
        better = wins(row[i], out[i]) | (ties(row[i], out[i]) & (candidate < offset[i]))
        out[i] = row[i] if better else out[i]
        offset[i] = candidate if better else offset[i]


@inlined
def take_cells(into, row, step, inner, infinity):
    """Every step-th cell of a row; a cell is `inner` numbers."""
    if step == 1:
        for i in range(len(into)):
            into[i] = key(row[i], infinity)
    elif inner == 1:
        for i in range(len(into)):
            into[i] = key(row[i * step], infinity)
    else:
        for cell in range(len(into) // inner):
            to, source = into[cell * inner : (cell + 1) * inner], row[cell * step * inner :]
            for i in range(inner):
                to[i] = key(source[i], infinity)


@inlined
def take_pairs(even, odd, row, infinity):
    """`take_cells` with step 2 for both phases at once, which LLVM turns into shuffles where one alone is slow."""
    for i in range(len(odd)):
        even[i] = key(row[2 * i], infinity)
        odd[i] = key(row[2 * i + 1], infinity)


@inlined
def lay_out(cells, x, slice_start, top, left, phases, rows, columns, H, W, sh, sw, inner, lowest, infinity):
    """The cells under a block of windows, [row phase, column phase, row, column]: what lies a stride apart side by side."""
    high, wide = phases
    length = columns * inner
    paired = inner == 1 and sw == 2 and wide == 2
    pairs_begin = min(max((1 - left) // 2, 0), columns)
    pairs_end = max(min((W - left) // 2, columns), pairs_begin)
    for row_phase in range(high):
        for row in range(rows):
            h = top + row * sh + row_phase
            real = 0 <= h < H
            line = slice_start + h * W
            at = (row_phase * wide * rows + row) * length
            if paired and real:
                even = cells[at + pairs_begin : at + pairs_end]
                odd = cells[at + rows * length + pairs_begin : at + rows * length + pairs_end]
                take_pairs(even, odd, x[line + left + 2 * pairs_begin :], infinity)
            for column_phase in range(wide):
                into = cells[at + column_phase * rows * length :][:length]
                first = left + column_phase
                begin = 0 if first >= 0 else min((-first + sw - 1) // sw, columns)
                end = max(min((W - first + sw - 1) // sw, columns), begin) if real else begin
                fill(into[: begin * inner], lowest)
                fill(into[end * inner :], lowest)
                if paired and end > begin:
                    take_cells(into[begin:pairs_begin], x[line + first + begin * 2 :], 2, 1, infinity)
                    take_cells(into[pairs_end:end], x[line + first + pairs_end * 2 :], 2, 1, infinity)
                elif end > begin:
                    take_cells(into[begin * inner : end * inner], x[(line + first + begin * sw) * inner :], sw, inner, infinity)


@inlined
def first_cell(starts, geometry):
    """The offset of the first real cell of a window that starts at these coordinates; 0 if it has none."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    d, h, w = starts
    kd, kh, kw = first_tap(d, dd), first_tap(h, dh), first_tap(w, dw)
    if d + kd * dd >= D or kd >= KD or h + kh * dh >= H or kh >= KH or w + kw * dw >= W or kw >= KW:
        return 0
    return (kd * KH + kh) * KW + kw


@inlined
def leaves(start, kernel, dilation, size):
    return start < 0 or start + (kernel - 1) * dilation >= size


@kernel
def max_pool(x, y, argmax, infinity, lowest, geometry, inner, block, start, stop):
    """Units are blocks of windows, `block` rows by columns.

    The cells under a block are laid out so that every tap of all its windows is one shifted run of cells. The
    maximum is taken over the taps of a column of the window, then over those of a row, run by run.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns = block
    row_blocks, column_blocks = (OH + block_rows - 1) // block_rows, (OW + block_columns - 1) // block_columns
    reach_h, reach_w = (KH - 1) * dh, (KW - 1) * dw
    high, wide = min(sh, reach_h + 1), min(sw, reach_w + 1)
    room_rows, room_columns = block_rows + reach_h // sh, block_columns + reach_w // sw
    laid = np.empty(high * wide * room_rows * room_columns * inner, x.dtype)
    tall = np.empty(wide * block_rows * room_columns * inner, x.dtype)
    flat = np.empty(block_rows * room_columns * inner, x.dtype)
    if argmax is not None:
        tall_offset = np.empty(len(tall), argmax.dtype)
        flat_offset = np.empty(len(flat), argmax.dtype)

    for unit in range(start, stop):
        rest, column_block = divmod(unit, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        plane, od = divmod(rest, OD)
        oh, ow = row_block * block_rows, column_block * block_columns
        out_rows, out_columns = min(block_rows, OH - oh), min(block_columns, OW - ow)
        rows, columns = out_rows + reach_h // sh, out_columns + reach_w // sw
        d0, top, left = od * sd - pd, oh * sh - ph, ow * sw - pw
        out_at = ((plane * OD + od) * OH + oh) * OW + ow
        run, out_run = out_rows * columns * inner, ((out_rows - 1) * columns + out_columns) * inner

        # Where the laid-out form is the form in memory, it is read there.
        inside = top >= 0 and left >= 0 and top + rows <= H and left + columns <= W
        as_is = infinity is None and sh == 1 and sw == 1 and inside and (rows == 1 or columns == W)
        as_is_out = columns == out_columns and (out_rows == 1 or out_columns == OW)
        best, best_offset = flat[:out_run], argmax
        if as_is_out:
            best = y[out_at * inner : out_at * inner + out_run]
        if argmax is not None:
            best_offset = flat_offset[:out_run]
            if as_is_out:
                best_offset = argmax[out_at * inner : out_at * inner + out_run]

        kd0, kd1 = first_tap(d0, dd), after_last_tap(d0, KD, dd, D)
        for kd in range(kd0, kd1):
            slice_start = (plane * D + d0 + kd * dd) * H * W
            cells = laid
            if as_is:
                cells = x[(slice_start + top * W + left) * inner :]
            else:
                lay_out(
                    laid, x, slice_start, top, left, (high, wide), rows, columns, H, W, sh, sw, inner, lowest, infinity
                )
            for kh in range(KH):
                shift, row_phase = divmod(kh * dh, sh)
                for column_phase in range(wide):
                    at = ((row_phase * wide + column_phase) * rows + shift) * columns * inner
                    tap = cells[at : at + run]
                    to = tall[column_phase * run : (column_phase + 1) * run]
                    if argmax is None:
                        if kd == kd0 and kh == 0:
                            copy(to, tap)
                        else:
                            larger(to, tap)
                    else:
                        to_offset = tall_offset[column_phase * run : (column_phase + 1) * run]
                        row_offset = (kd * KH + kh) * KW
                        if kd == kd0 and kh == 0:
                            copy(to, tap)
                            fill(to_offset, row_offset)
                        else:
                            winners(to, to_offset, tap, row_offset)
        if kd0 >= kd1:
            fill(tall, lowest)
            if argmax is not None:
                fill(tall_offset, 0)

        for kw in range(KW):
            shift, column_phase = divmod(kw * dw, sw)
            at = column_phase * run + shift * inner
            tap = tall[at : at + out_run]
            if argmax is None:
                if kw == 0:
                    copy(best, tap)
                else:
                    larger(best, tap)
            else:
                tap_offset = tall_offset[at : at + out_run]
                if kw == 0:
                    copy(best, tap)
                    copy(best_offset, tap_offset)
                else:
                    first_winners(best, best_offset, tap, tap_offset, kw)

        for row in range(out_rows):
            to = (out_at + row * OW) * inner
            source = row * columns * inner
            into = y[to : to + out_columns * inner]
            if not as_is_out:
                copy(into, best[source : source + out_columns * inner])
            if argmax is not None:
                into_offset = argmax[to : to + out_columns * inner]
                if not as_is_out:
                    copy(into_offset, best_offset[source : source + out_columns * inner])
                mend_padding(into, into_offset, lowest, (d0, top + row * sh, left), geometry, inner)
            if infinity is not None:
                for i in range(len(into)):
                    into[i] = unkeyed(into[i], infinity)


@inlined
def mend_padding(best, offset, lowest, starts, geometry, inner):
    """Where the maximum is the lowest value there is, padding may have been first: the first real cell is the winner."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    d, h, left = starts
    row_leaves = leaves(d, KD, dd, D) or leaves(h, KH, dh, H)
    columns = len(best) // inner
    if not row_leaves and not leaves(left, 1, 1, W) and not leaves(left + (columns - 1) * sw, KW, dw, W):
        return
    for column in range(columns):
        w = left + column * sw
        if row_leaves or leaves(w, KW, dw, W):
            for i in range(column * inner, (column + 1) * inner):
                if best[i] == lowest:
                    offset[i] = first_cell((d, h, w), geometry)


@kernel(parallel=True)
def max_pool_parallel(x, y, argmax, infinity, lowest, geometry, inner, block, units, chunks):
    for i in prange(chunks):
        a, b = units * i // chunks, units * (i + 1) // chunks
        max_pool(x, y, argmax, infinity, lowest, geometry, inner, block, a, b)


@kernel
def max_pool_by_cells(x, y, argmax, infinity, lowest, geometry, inner, start, stop):
    """Units are rows of windows, cell after cell: for windows that reach too far for `max_pool` to lay them out."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    for unit in range(start, stop):
        rest, oh = divmod(unit, OH)
        plane, od = divmod(rest, OD)
        d0, h0 = od * sd - pd, oh * sh - ph
        for ow in range(OW):
            w0 = ow * sw - pw
            for c in range(inner):
                best, offset = lowest, first_cell((d0, h0, w0), geometry)
                for kd in range(first_tap(d0, dd), after_last_tap(d0, KD, dd, D)):
                    for kh in range(first_tap(h0, dh), after_last_tap(h0, KH, dh, H)):
                        row = ((plane * D + d0 + kd * dd) * H + h0 + kh * dh) * W
                        for kw in range(first_tap(w0, dw), after_last_tap(w0, KW, dw, W)):
                            value = key(x[(row + w0 + kw * dw) * inner + c], infinity)
                            if wins(value, best):
                                best, offset = value, (kd * KH + kh) * KW + kw
                at = (unit * OW + ow) * inner + c
                y[at] = unkeyed(best, infinity)
                if argmax is not None:
                    argmax[at] = offset


@kernel(parallel=True)
def max_pool_by_cells_parallel(x, y, argmax, infinity, lowest, geometry, inner, units, chunks):
    for i in prange(chunks):
        a, b = units * i // chunks, units * (i + 1) // chunks
        max_pool_by_cells(x, y, argmax, infinity, lowest, geometry, inner, a, b)


@inlined
def add_where(total, slopes, winners, tap):
    """Add the gradients whose winner is one certain tap."""
    for i in range(len(total)):
        total[i] += slopes[i] if winners[i] == tap else slopes.dtype.type(0)


@inlined
def widen(out, row, infinity):
    for i in range(len(out)):
        out[i] = widened(row[i], infinity)


@inlined
def narrow(out, row, infinity):
    for i in range(len(out)):
        out[i] = narrowed(row[i], infinity)


@inlined
def put_cells(row, cells, step, inner, infinity):
    """Cells to every step-th cell of a row: the inverse of `take_cells`."""
    if step == 1:
        narrow(row[: len(cells)], cells, infinity)
    elif inner == 1:
        for i in range(len(cells)):
            row[i * step] = narrowed(cells[i], infinity)
    else:
        for cell in range(len(cells) // inner):
            narrow(row[cell * step * inner :][:inner], cells[cell * inner : (cell + 1) * inner], infinity)


@inlined
def put_pairs(row, even, odd, infinity):
    for i in range(len(odd)):
        row[2 * i] = narrowed(even[i], infinity)
        row[2 * i + 1] = narrowed(odd[i], infinity)


@inlined
def lay_out_windows(slopes, winners, dy, argmax, at, first_row, first_column, rows, columns, OH, OW, inner, infinity):
    """The windows over a block of cells, [row, column]; those that do not exist have the gradient 0."""
    begin = min(max(-first_column, 0), columns)
    end = max(min(OW - first_column, columns), begin)
    for row in range(rows):
        oh = first_row + row
        to = slopes[row * columns * inner : (row + 1) * columns * inner]
        if not 0 <= oh < OH:
            fill(to, 0)
            continue
        fill(to[: begin * inner], 0)
        fill(to[end * inner :], 0)
        source = (at + oh * OW + first_column + begin) * inner
        count = (end - begin) * inner
        widen(to[begin * inner :][:count], dy[source : source + count], infinity)
        copy(winners[(row * columns + begin) * inner :][:count], argmax[source : source + count])


@inlined
def put_back(dx, cells, slice_start, top, left, rows, columns, H, W, right, sh, sw, inner, infinity):
    """Cells laid out as [row phase, column phase, row, column] to where they are in memory: undoes `lay_out`."""
    length = columns * inner
    paired = inner == 1 and sw == 2
    pairs_begin = min(max((1 - left) // 2, 0), columns)
    pairs_end = max(min((right - left) // 2, columns), pairs_begin)
    for row_phase in range(sh):
        for row in range(rows):
            h = top + row * sh + row_phase
            if not 0 <= h < H:
                continue
            line = slice_start + h * W
            at = (row_phase * sw * rows + row) * length
            if paired:
                even = cells[at + pairs_begin : at + pairs_end]
                odd = cells[at + rows * length + pairs_begin : at + rows * length + pairs_end]
                put_pairs(dx[line + left + 2 * pairs_begin :], even, odd, infinity)
            for column_phase in range(sw):
                source = cells[at + column_phase * rows * length :][:length]
                first = left + column_phase
                begin = 0 if first >= 0 else min((-first + sw - 1) // sw, columns)
                end = max(min((right - first + sw - 1) // sw, columns), begin)
                if paired:
                    if begin < pairs_begin:
                        put_cells(dx[line + first + begin * 2 :], source[begin:pairs_begin], 2, 1, infinity)
                    if pairs_end < end:
                        put_cells(dx[line + first + pairs_end * 2 :], source[pairs_end:end], 2, 1, infinity)
                elif end > begin:
                    into = dx[(line + first + begin * sw) * inner :]
                    put_cells(into, source[begin * inner : end * inner], sw, inner, infinity)


@kernel
def max_pool_backward_by_taps(dy, argmax, dx, infinity, sums, geometry, inner, block, start, stop):
    """Units are blocks of cells, laid out as in `max_pool`: every tap adds one shifted run of windows to them.

    Last tap first, so that a cell receives the gradients of its windows in row-major order.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns = block
    all_rows, all_columns = (H + ph + sh - 1) // sh, (W + pw + sw - 1) // sw
    row_blocks, column_blocks = (
        (all_rows + block_rows - 1) // block_rows,
        (all_columns + block_columns - 1) // block_columns,
    )
    back_rows, back_columns = (KH - 1) * dh // sh, (KW - 1) * dw // sw
    slopes = np.empty((block_rows + back_rows) * (block_columns + back_columns) * inner, sums.dtype)
    winners = np.zeros(len(slopes), argmax.dtype)
    cells = np.empty(sh * sw * block_rows * (block_columns + back_columns) * inner, sums.dtype)

    for unit in range(start, stop):
        rest, column_block = divmod(unit, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        plane, d = divmod(rest, D)
        first_row, first_column = row_block * block_rows, column_block * block_columns
        rows = min(block_rows, all_rows - first_row)
        columns = min(block_columns, all_columns - first_column) + back_columns
        part = rows * columns * inner
        run = part - back_columns * inner
        # Windows along the depth alone have the form in memory already.
        direct = KH * KW * sh * sw == 1 and ph == 0 and pw == 0 and OH == H and OW == W and (rows == 1 or columns == W)
        here = ((plane * D + d) * H + first_row) * W + first_column
        total = where_it_lies(direct, dx[here * inner :], cells, infinity)[: sh * sw * part]
        fill(total, 0)
        for kd in range(KD - 1, -1, -1):
            od, between = divmod(d + pd - kd * dd, sd)
            if between != 0 or not 0 <= od < OD:
                continue
            top, left = first_row - back_rows, first_column - back_columns
            at = (plane * OD + od) * OH * OW
            gradients, chosen = slopes, winners
            if direct and infinity is None:
                there = (at + first_row * W + first_column) * inner
                gradients = where_it_lies(direct, dy[there:], slopes, infinity)
                chosen = argmax[there:]
            else:
                lay_out_windows(
                    slopes, winners, dy, argmax, at, top, left, rows + back_rows, columns, OH, OW, inner, infinity
                )
            for kh in range(KH - 1, -1, -1):
                row_shift, row_phase = divmod(kh * dh, sh)
                for kw in range(KW - 1, -1, -1):
                    column_shift, column_phase = divmod(kw * dw, sw)
                    to = total[(row_phase * sw + column_phase) * part :][:run]
                    source = ((back_rows - row_shift) * columns + back_columns - column_shift) * inner
                    tap = argmax.dtype.type((kd * KH + kh) * KW + kw)
                    add_where(to, gradients[source : source + run], chosen[source : source + run], tap)
        if direct and infinity is None:
            continue
        top, left = first_row * sh - ph, first_column * sw - pw
        right = min(W, left + (columns - back_columns) * sw)
        put_back(dx, total, (plane * D + d) * H * W, top, left, rows, columns, H, W, right, sh, sw, inner, infinity)


@kernel(parallel=True)
def max_pool_backward_by_taps_parallel(dy, argmax, dx, infinity, sums, geometry, inner, block, units, chunks):
    for i in prange(chunks):
        a, b = units * i // chunks, units * (i + 1) // chunks
        max_pool_backward_by_taps(dy, argmax, dx, infinity, sums, geometry, inner, block, a, b)


@kernel
def max_pool_backward(dy, argmax, dx, infinity, geometry, inner, start, stop):
    """Units are rows of dx. A tile of them is zeroed, then every window that can reach it adds to it, in order.

    For windows of many taps; its work does not grow with their number.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    rows, width = D * H, W * inner
    small = argmax.itemsize == 1
    taps = KD * KH * KW if small else 0
    row_of, column_of = np.empty(taps, np.int64), np.empty(taps, np.int64)
    for offset in range(taps):
        row_of[offset] = offset // (KH * KW) * dd * H + offset // KW % KH * dh
        column_of[offset] = offset % KW * dw
    tile = max(8 * BLOCK // width, 1)

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
        a, b = units * i // chunks, units * (i + 1) // chunks
        max_pool_backward(dy, argmax, dx, infinity, geometry, inner, a, b)


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
