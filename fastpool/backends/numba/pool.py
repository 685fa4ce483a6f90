"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Arrays arrive flat. A plane has rows of W * inner numbers, so that one loop serves both layouts.
"""

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.compilation import INLINED, inlined, kernel
from fastpool.backends.numba.lanes import (
    add_offsets,
    beside,
    count_up,
    evens,
    every_fifth,
    every_second,
    every_third,
    fetch,
    fetch_to_write,
    first_of,
    lanes_in,
    load,
    load_beside,
    odds,
    splat_offset,
    store,
    store_won_2,
    store_won_3,
    store_won_4,
    store_won_5,
    store_won_8,
    where,
)
from fastpool.backends.numba.scalars import (
    after_last_tap,
    after_last_window,
    carve,
    carve_bounds,
    first_tap,
    first_window,
    in_place_of,
    itemsize_of,
    key,
    keyed,
    lay_row,
    maximum,
    narrow_row,
    narrow_zipped,
    narrowed,
    onward,
    part,
    plain,
    positive,
    precedes,
    scratch_for_sums,
    unkeyed,
    widen_row,
    widened,
    wins,
    won_at,
)
from fastpool.backends.numba.scratch import (
    asks_each_position,
    backward_scratch,
    by_taps_scratch,
    check_scratch,
    compares_in_place,
    direct_scratch,
    edges_along,
    elements_apart,
    max_pool_scratch,
    scratch_bytes,
    tall_scratch,
    windows_at_edges,
)


@inlined
def one_slice():
    return plain(1), plain(1), plain(0)


@inlined
def fill(row, value):
    for i in range(len(row)):
        row[i] = value


@inlined
def fill_lanes(run, begin, end, lanes):
    """The same lanes from `begin` on, as long as they begin before `end`."""
    if begin < end:  # Mostly all there is: by itself, it is not made a call of memset.
        store(run, begin, lanes)
        begin += lanes_in(run)
    while begin < end:
        store(run, begin, lanes)
        begin += lanes_in(run)


# Beside each run of values goes a run of offsets: who won. What comes later has a larger offset, so it needs more
# than a tie; its tap times `weight` is how much larger.


@inlined
def largest_lanes(out, won, at, a, a_won, i, over_slices, over_taps, ahead):
    """Lanes of `out`: the maximum of those of `a` from `i` on over all taps of all slices, with their offsets.

    Slices and taps are (how many, how far apart, how much larger the offset of the next).
    """
    (slices, slice_step, slice_weight), (taps, step, weight) = over_slices, over_taps
    best, first = load(a, i), i
    if won is None:
        for one in range(slices):
            for tap in range(1 if one == 0 else 0, taps):
                best = maximum(best, load(a, first + tap * step))
            first += slice_step
    else:
        number = won.dtype.type
        offset, more = beside(best, number(ahead)), beside(best, number(weight))
        more_to_next = beside(best, number(slice_weight - taps * weight))
        best_won = won_at(best, won, a_won, i) + offset
        for one in range(slices):
            offset = offset + more if one == 0 else offset
            for tap in range(1 if one == 0 else 0, taps):
                value = load(a, first + tap * step)
                better = wins(value, best)
                best = where(better, value, best)
                best_won = where(better, won_at(best, won, a_won, first + tap * step) + offset, best_won)
                offset = offset + more
            first, offset = first + slice_step, offset + more_to_next
        store(won, at, best_won)
    store(out, at, best)


@inlined
def largest(out, won, count, last, a, a_won, over_slices, over_taps, ahead):
    """The same for a run of `count` numbers; none of its lanes begins behind `last`: they rather overlap those before.

    Two or three taps of one slice, which are nearly all, are compared without a loop.
    """
    (slices, _, _), (taps, step, weight), lanes = over_slices, over_taps, lanes_in(out)
    known = taps if slices == 1 else 0
    i = 0
    if known == 2:
        while i < count:
            i = min(i, last)
            largest_lanes(out, won, i, a, a_won, i, one_slice(), (plain(2), step, weight), ahead)
            i += lanes
    elif known == 3:
        while i < count:
            i = min(i, last)
            largest_lanes(out, won, i, a, a_won, i, one_slice(), (plain(3), step, weight), ahead)
            i += lanes
    else:
        while i < count:
            i = min(i, last)
            largest_lanes(out, won, i, a, a_won, i, over_slices, over_taps, ahead)
            i += lanes


@inlined
def largest_apart(load_apart, out, won, count, cells, taps, stride, dilation):
    """The same along a row for windows 2, 3 or 5 cells apart: of each tap every such cell, side by side in lanes."""
    for i in range(0, count, positive(lanes_in(out))):
        source = i * stride
        best = load_apart(cells, source)
        if won is None:
            for tap in range(1, taps):
                best = maximum(best, load_apart(cells, source + tap * dilation))
        else:
            number = won.dtype.type
            best_won, offset = beside(best, number(0)), beside(best, number(0))
            for tap in range(1, taps):
                value, offset = load_apart(cells, source + tap * dilation), offset + beside(best, number(1))
                better = wins(value, best)
                best, best_won = where(better, value, best), where(better, offset, best_won)
            store(won, i, best_won)
        store(out, i, best)


@inlined
def largest_far_apart(out, won, count, cells, spare, taps, stride, dilation):
    """The same for windows any number of cells apart: piece by piece, for each tap its cells side by side."""
    lanes, most = lanes_in(out), len(spare) // 2
    for begin in range(0, count, positive(most)):
        piece = min(most, count - begin)
        for tap in range(taps):
            cells_of_tap, into = onward(cells, begin * stride + tap * dilation), part(spare, 0, most)
            if tap > 0:
                into = part(spare, most, most)
            for i in range(piece):
                into[i] = cells_of_tap[np.uint64(i * stride)]
            if tap == 0 and won is not None:
                fill(part(won, begin, piece), 0)
            for i in range(0, piece if tap > 0 else 0, positive(lanes)):
                best, value = load(spare, i), load(into, i)
                if won is None:
                    store(spare, i, maximum(best, value))
                else:
                    better, best_won = wins(value, best), load_beside(best, won, begin + i)
                    store(spare, i, where(better, value, best))
                    store(won, begin + i, where(better, beside(best, won.dtype.type(tap)), best_won))
        for i in range(piece):
            out[begin + i] = spare[i]


@inlined
def halve(out, won, a, a_won, count, weight):
    """The larger of each two neighbours of a row, to `count` numbers; in the row itself if `out` is `a`."""
    lanes = lanes_in(a)
    for i in range(0, count, positive(lanes)):
        low, high = load(a, 2 * i), load(a, 2 * i + lanes)
        first, second = evens(low, high), odds(low, high)
        if won is None:
            store(out, i, maximum(first, second))
        else:
            low_won, high_won = load_beside(low, a_won, 2 * i), load_beside(low, a_won, 2 * i + lanes)
            better = wins(second, first)
            second_won = odds(low_won, high_won) + beside(low, won.dtype.type(weight))
            store(won, i, where(better, second_won, evens(low_won, high_won)))
            store(out, i, where(better, second, first))


@inlined
def double(a, a_won, source, count, taps, step, weight):
    """Windows of 2, then of 4, 8 ... taps, until two of those make one of `taps`; the width reached.

    From `source` to `a`, where the offsets lie already; from the second width on in `a` itself.
    """
    width = 1
    while 2 * width < taps:
        count -= width * step
        largest(a, a_won, count, count, source, a_won, one_slice(), (plain(2), width * step, width * weight), plain(0))
        source = onward(a, 0)
        width *= 2
    return width


@inlined
def lay_out(cells, x, origin, ahead, top, left, size, H, W, inner, lowest, infinity):
    """The cells under a block of windows, padding included: as many rows and columns, `pitch` to a row, as `size` says.

    What lies `ahead` of each is fetched meanwhile: the next block, which else would come only after this one is done.
    """
    rows, columns, pitch = size
    lows = beside(load(cells, 0), lowest)
    begin = min(max(-left, 0), columns) * inner
    end = max(min(W - left, columns) * inner, begin)
    rest = first_of(lows, (end - begin) % lanes_in(x))
    for row in range(rows):
        to, source, i = row * pitch * inner, origin + row * W * inner, 0
        if 0 <= top + row < H:
            fill_lanes(cells, to, to + begin, lows)
            i = lay_row(cells, to, x, source, begin, end, rest, lows, infinity, ahead)
        fill_lanes(cells, to + i, to + columns * inner, lows)


@inlined
def along_rows(out, won, count, cells, spare, taps, stride, dilation, inner):
    """The maximum over the taps of the windows of all rows at once: `count` numbers of `out`.

    The cells may lie in `out` itself, lanes behind its start, so that none is written over before it is read.
    """
    cells_won = onward(won, lanes_in(out))
    if won is not None:
        fill(part(won, 0, count * stride + 2 * lanes_in(out)), 0)
    if stride == 1:
        step, weight = dilation * inner, 1
        if taps > 4:
            weight = taps - double(out, won, cells, count, taps, step, plain(1))
            cells, step, taps = onward(out, 0), weight * step, 2
        largest(out, won, count, count, cells, won, one_slice(), (taps, step, weight), plain(0))
    elif inner > 1:
        for cell in range(count // inner):
            to, to_won = onward(out, cell * inner), onward(won, cell * inner)
            source, source_won = onward(cells, cell * stride * inner), onward(cells_won, cell * stride * inner)
            largest(
                to, to_won, inner, inner, source, source_won, one_slice(), (taps, dilation * inner, plain(1)), plain(0)
            )
    elif dilation == 1 and taps == stride and taps & (taps - 1) == 0:
        width = 2
        while width < taps:
            halve(out, won, cells, won, count * (taps // width), width // 2)
            cells, width = onward(out, 0), 2 * width
        halve(out, won, cells, won, count, width // 2)
    elif stride == 2:
        largest_apart(every_second, out, won, count, cells, taps, 2, dilation)
    elif stride == 3:
        largest_apart(every_third, out, won, count, cells, taps, 3, dilation)
    elif stride == 5:
        largest_apart(every_fifth, out, won, count, cells, taps, 5, dilation)
    else:
        largest_far_apart(out, won, count, cells, spare, taps, stride, dilation)


@inlined
def largest_between_edges(load_at, out, won, counts, cells, real, lows, taps, stride, step, infinity, ahead):
    """The maximum over the taps of windows that lie as the cells do in memory, one row behind the other.

    In `real` each window has a bit for each tap that is a cell of its own row: what else is there counts as low, as do
    what lies before the first of `counts` and from the second up to the third. What lies `ahead` is fetched.
    """
    (above, below, end), lanes, none = counts, lanes_in(out), beside(lows, np.uint8(0))
    fill_lanes(out, 0, above, lows)
    for i in range(0, below - above, positive(lanes)):
        source, bit, bits = i * stride, beside(lows, np.uint8(1)), load_beside(lows, real, i)
        best = where((bits & bit) != none, keyed(load_at(cells, source), infinity), lows)
        for line in range(stride):
            fetch(cells, source + line * lanes + ahead)
        if won is None:
            for tap in range(1, taps):
                bit = bit + bit
                value = keyed(load_at(cells, source + tap * step), infinity)
                best = maximum(best, where((bits & bit) != none, value, lows))
        else:
            number = won.dtype.type
            best_won, offset = beside(best, number(0)), beside(best, number(0))
            for tap in range(1, taps):
                bit, offset = bit + bit, offset + beside(best, number(1))
                value = keyed(load_at(cells, source + tap * step), infinity)
                value = where((bits & bit) != none, value, lows)
                better = wins(value, best)
                best, best_won = where(better, value, best), where(better, offset, best_won)
            store(won, above + i, best_won)
        store(out, above + i, best)
    fill_lanes(out, below, end, lows)
    if won is not None:
        fill(part(won, 0, above), 0)
        fill(part(won, below, end - below), 0)


@inlined
def taps_in_row(real, W, KW, sw, pw, dw, OW, inner):
    """A bit for each tap of each window, row after row, that is a cell of its row."""
    row, lanes = OW * inner, lanes_in(real)
    for ow in range(OW if len(real) > 0 else 0):
        first = first_tap(ow * sw - pw, dw)
        end = max(after_last_tap(ow * sw - pw, KW, dw, W), first)
        fill_lanes(real, ow * inner, (ow + 1) * inner, beside(load(real, 0), np.uint8((1 << end) - (1 << first))))
    for i in range(row, len(real) - lanes, positive(min(row, lanes))):
        store(real, i, load(real, i - row))


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


@inlined
def mend_padding(best, won, lowest, starts, edges, geometry, inner):
    """Where the maximum is the lowest value, padding may have come first: the first real cell is the winner."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    d, h, left = starts
    begin, end = edges
    between = 0 if leaves(d, KD, dd, D) or leaves(h, KH, dh, H) else (end - begin) * inner
    for edge in range(len(best) - between):
        i = edge if edge < begin * inner else edge + between
        if best[i] == lowest:
            won[i] = first_cell((d, h, left + i // inner * sw), geometry)


@inlined
def any_equal(run, value):
    found = False
    for i in range(len(run)):
        found |= run[i] == value
    return found


@kernel
def max_pool(x, y, argmax, infinity, lowest, geometry, inner, block, scratch, start, stop):
    """Units are blocks of windows, `block` rows by columns. First the maximum along the rows, then down the columns.

    In this order a later tap has a larger offset, so that the first of equal cells stays without a look at the
    offsets. Rows are written in whole lanes: what spills over the end of one is written again with the next.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns = block
    row_blocks, column_blocks = (OH + block_rows - 1) // block_rows, (OW + block_columns - 1) // block_columns
    lanes, reach_h, reach_w = lanes_in(x), (KH - 1) * dh, (KW - 1) * dw
    along_size, spare_size, mask_size, _ = max_pool_scratch(geometry, inner, block, x.itemsize, itemsize_of(argmax))
    values = along_size + spare_size + lanes
    cells_size = scratch_bytes(values, x.itemsize)
    room = carve(scratch, 0, values, x)
    won_room = carve(scratch, cells_size, values, argmax)
    alike = compares_in_place(geometry, inner, block)
    real = carve(scratch, cells_size + scratch_bytes(values, itemsize_of(argmax)), mask_size, np.uint8)
    taps_in_row(real, W, KW, sw, pw, dw, OW, inner)
    if argmax is not None:
        fill(won_room, 0)
    slice_step, row_step = H * W * inner, W * inner
    next_block = min(block_rows * sh, H) * row_step if column_blocks == 1 else block_columns * sw * inner
    # Up to here y belongs to this call: where its rows are whole, its units lie one behind the other.
    limit = (stop // row_blocks * OH + stop % row_blocks * block_rows) * OW * inner

    for unit in range(start, stop):
        along, along_won = part(room, 0, along_size), part(won_room, 0, along_size)
        spare = part(room, along_size, spare_size)
        tail, tail_won = onward(room, len(room) - lanes), onward(won_room, len(room) - lanes)
        rest, column_block = divmod(unit, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        plane, od = divmod(rest, OD)
        oh, ow = row_block * block_rows, column_block * block_columns
        out_rows, out_columns = min(block_rows, OH - oh), min(block_columns, OW - ow)
        d0, top, left = od * sd - pd, oh * sh - ph, ow * sw - pw
        kd0 = first_tap(d0, dd)
        slices = max(after_last_tap(d0, KD, dd, D) - kd0, 0)
        rows, columns = (out_rows - 1) * sh + reach_h + 1, (out_columns - 1) * sw + reach_w + 1
        origin = (((plane * D + d0 + kd0 * dd) * H + top) * W + left) * inner
        out_origin, out_count = (((plane * OD + od) * OH + oh) * OW + ow) * inner, out_columns * inner

        # Where rows of cells lie in memory as they would be laid out, they are read there: up to whole lanes behind.
        first_row, end_row = min(max(-top, 0), rows), max(min(rows, H - top), 0)
        first, last = origin + first_row * row_step, origin + (slices - 1) * dd * slice_step + end_row * row_step
        readable = first >= 0 and last + reach_w * inner + 2 * sw * lanes <= len(x)
        as_is = readable and infinity is None and left >= 0 and left + columns <= W and end_row - first_row == rows
        upright = as_is and KW == 1 and sw == 1
        as_is = as_is and (rows == 1 or (block_columns == OW and left == 0 and W % sw == 0))
        between_edges = alike and readable and not as_is
        pitch = (W // sw if between_edges or (as_is and rows > 1) else (columns + sw - 1) // sw) * inner
        laid_step = rows * pitch * sw + lanes
        for one in range(0 if upright else slices):
            source = origin + one * dd * slice_step
            to, to_won = onward(along, one * laid_step), onward(along_won, one * laid_step)
            if between_edges:
                cells, lows = onward(x, source + first_row * row_step), beside(load(to, 0), lowest)
                counts, step = (first_row * pitch, max(end_row, first_row) * pitch, rows * pitch), dw * inner
                if sw == 1:
                    largest_between_edges(
                        load, to, to_won, counts, cells, real, lows, KW, 1, step, infinity, next_block
                    )
                else:
                    largest_between_edges(
                        every_second, to, to_won, counts, cells, real, lows, KW, 2, step, infinity, next_block
                    )
                continue
            cells = onward(to, lanes)
            if as_is:
                cells = onward(x, source)
            else:
                size = rows, columns, pitch // inner * sw
                lay_out(cells, x, source, next_block, top, left, size, H, W, inner, lowest, infinity)
            along_rows(to, to_won, rows * pitch, cells, spare, KW, sw, dw, inner)

        taps, step, weight = KH, dh * pitch, KW
        if sh == 1 and KH > 4 and not upright:
            weight = KH - double(along, along_won, along, slices * laid_step, KH, step, KW)
            taps, step, weight = 2, weight * step, weight * KW
        # Where rows of maxima lie as those of y do, all of them are one.
        lines, line = out_rows, out_count
        if sh == 1 and not upright and pitch == OW * inner and column_blocks == 1:
            lines, line = 1, out_rows * out_count
        for row in range(lines):
            to = out_origin + row * OW * inner
            row_limit = limit if column_blocks == 1 else to + out_count
            count, whole = line if slices > 0 else 0, to + line + lanes <= row_limit
            last, narrow = count if whole else count - lanes, not whole and count < lanes
            best, best_won = part(tail, 0, lanes), part(tail_won, 0, lanes)
            if narrow:
                last = 0
            else:
                best, best_won = onward(y, to), onward(argmax, to)
            if upright:
                cells, over_slices = onward(x, origin + row * sh * row_step), (slices, dd * slice_step, KH * KW)
                over_taps = KH, dh * row_step, KW
                for tap in range(KH):
                    for i in range(0, count, positive(lanes)):
                        fetch(cells, tap * dh * row_step + i + next_block)
                largest(best, best_won, count, last, cells, None, over_slices, over_taps, kd0 * KH * KW)
            else:
                source = row * sh * pitch
                cells, cells_won = onward(along, source), onward(along_won, source)
                over_slices, over_taps = (slices, laid_step, KH * KW), (taps, step, weight)
                largest(best, best_won, count, last, cells, cells_won, over_slices, over_taps, kd0 * KH * KW)
            for i in range(count if narrow else 0):
                y[to + i] = best[i]
                if argmax is not None:
                    argmax[to + i] = best_won[i]
        edges = windows_at_edges(left, out_columns, KW, sw, dw, W)
        over_edges = edges[0] > 0 or edges[1] < out_columns or leaves(d0, KD, dd, D)
        over_edges = over_edges or leaves(top, KH, dh, H) or leaves(top + (out_rows - 1) * sh, KH, dh, H)
        mend = argmax is not None and slices > 0 and over_edges
        if mend and column_blocks == 1:
            mend = any_equal(part(y, out_origin, out_rows * out_count), lowest)
        for row in range(out_rows if mend or slices == 0 or infinity is not None else 0):
            to = out_origin + row * OW * inner
            best, best_won = part(y, to, out_count), part(argmax, to, out_count)
            if slices == 0:
                fill(best, lowest)
                if argmax is not None:
                    fill(best_won, 0)
            if argmax is not None and mend:
                mend_padding(best, best_won, lowest, (d0, top + row * sh, left), edges, geometry, inner)
            if infinity is not None:
                for i in range(out_count):
                    best[i] = unkeyed(best[i], infinity)


@inlined
def larger(out, won, count, last, a, a_won, b, b_won, behind):
    """The larger of two runs, with offsets that grow by `behind`; of equal numbers that of `a`."""
    i, lanes = 0, lanes_in(a)
    while i < count:
        i = min(i, last)
        best, value = load(a, i), load(b, i)
        if won is None:
            store(out, i, maximum(best, value))
        else:
            better = wins(value, best)
            best_won = where(better, load_beside(best, b_won, i), load_beside(best, a_won, i))
            store(out, i, where(better, value, best))
            store(won, i, best_won + beside(best, won.dtype.type(behind)))
        i += lanes


@kernel
def max_pool_of_tall_windows(x, y, argmax, infinity, lowest, geometry, inner, block, scratch, start, stop):
    """Units are blocks of windows one row apart, `block` rows by columns. Each row of cells is looked at once.

    Rows of maxima come one after the other, in pieces as tall as a window. A window is the end of one piece and the
    beginning of the next: the maxima of all ends are kept, of each beginning only the last (van Herk 1992, Gil and
    Werman 1993). Offsets count from the top of the block, and wrap around: the difference fits their dtype again. Every
    row of a block is one of lanes at least.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns = block
    row_blocks, column_blocks = (OH + block_rows - 1) // block_rows, (OW + block_columns - 1) // block_columns
    lanes, reach = lanes_in(x), (KW - 1) * dw
    row_size, step, values, _ = tall_scratch(geometry, inner, block, x.itemsize, itemsize_of(argmax))
    room = carve(scratch, 0, values, x)
    won_room = carve(scratch, scratch_bytes(values, x.itemsize), values, argmax)

    for unit in range(start, stop):
        row, row_won = part(room, 0, row_size), part(won_room, 0, row_size)
        cells, spare = onward(row, lanes), part(room, row_size, 64 * lanes)
        beginning, beginning_won = onward(room, row_size + 64 * lanes), onward(won_room, row_size + 64 * lanes)
        ends, ends_won = onward(beginning, step), onward(beginning_won, step)
        rest, column_block = divmod(unit, column_blocks)
        plane, row_block = divmod(rest, row_blocks)
        oh, ow = row_block * block_rows, column_block * block_columns
        out_rows, out_columns = min(block_rows, OH - oh), min(block_columns, OW - ow)
        top, left, count = oh - ph, ow * sw - pw, out_columns * inner
        columns = (out_columns - 1) * sw + reach + 1
        size, pitch = (1, columns, columns), (columns + sw - 1) // sw * inner
        edges = windows_at_edges(left, out_columns, KW, sw, dw, W)
        for below in range(out_rows + KH - 1):
            origin = ((plane * H + top + below) * W + left) * inner
            lay_out(cells, x, origin, 4 * W * inner, top + below, left, size, H, W, inner, lowest, infinity)
            along_rows(row, row_won, pitch, cells, spare, KW, sw, dw, inner)
            at = below % KH
            end, end_won = onward(ends, at * step), onward(ends_won, at * step)
            larger(end, end_won, count, count, row, row_won, row, row_won, below * KW)
            if at == 0:
                larger(beginning, beginning_won, count, count, end, end_won, end, end_won, 0)
            else:
                larger(beginning, beginning_won, count, count, beginning, beginning_won, end, end_won, 0)

            first = below - KH + 1
            if first >= 0:
                to = ((plane * OH + oh + first) * OW + ow) * inner
                best, best_won = part(y, to, count), part(argmax, to, count)
                a, a_won = onward(beginning, 0), onward(beginning_won, 0)
                if at < KH - 1:
                    a, a_won = onward(end, step), onward(end_won, step)
                larger(best, best_won, count, count - lanes, a, a_won, beginning, beginning_won, -first * KW)
                if argmax is not None:
                    mend_padding(best, best_won, lowest, (0, top + first, left), edges, geometry, inner)
                if infinity is not None:
                    for i in range(count):
                        best[i] = unkeyed(best[i], infinity)
            if at == KH - 1:
                for above in range(KH - 2, -1, -1):
                    end, end_won = onward(ends, above * step), onward(ends_won, above * step)
                    below_it, below_it_won = onward(end, step), onward(end_won, step)
                    larger(end, end_won, count, count, end, end_won, below_it, below_it_won, 0)


def larger_of_lanes(best, best_won, value, offset):
    """The larger of each two lanes with its offset, where there are offsets; of equal values that of `best`."""


@overload(larger_of_lanes, jit_options=INLINED)
def _larger_of_lanes(best, best_won, value, offset):
    if isinstance(best_won, types.NoneType):
        return lambda best, best_won, value, offset: (maximum(best, value), None)

    def larger_of_lanes(best, best_won, value, offset):
        better = wins(value, best)
        return where(better, value, best), where(better, offset, best_won)

    return larger_of_lanes


@inlined
def pool_channels(x, y, argmax, to, channel, origin, taps, first, lowest, infinity, geometry, inner):
    """One window, of as many channels as a vector holds."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (kd0, kd1), (kh0, kh1), (kw0, kw1) = taps
    best = beside(load(x, 0), lowest)
    best_won = splat_offset(best, argmax, first)
    for kd in range(kd0, kd1):
        for kh in range(kh0, kh1):
            for kw in range(kw0, kw1):
                value = keyed(load(x, origin + ((kd * dd * H + kh * dh) * W + kw * dw) * inner + channel), infinity)
                offset = splat_offset(best, argmax, (kd * KH + kh) * KW + kw)
                best, best_won = larger_of_lanes(best, best_won, value, offset)
    store(y, to + channel, best)
    if argmax is not None:
        store(argmax, to + channel, best_won)


@inlined
def pool_rows(x, values, offsets, origin, taps, first, lowest, infinity, geometry):
    """One window of neighbouring cells: the maximum of every lane of its rows, and then of these."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (kd0, kd1), (kh0, kh1), (kw0, kw1) = taps
    lanes, count = lanes_in(x), kw1 - kw0
    best = beside(load(x, 0), lowest)
    best_won, steps = splat_offset(best, offsets, first), count_up(best, offsets)
    for kd in range(kd0, kd1):
        for kh in range(kh0, kh1):
            row, tap, i = origin + (kd * dd * H + kh * dh) * W + kw0, (kd * KH + kh) * KW + kw0, 0
            while i < count:
                i = min(i, count - lanes)  # the last lanes rather overlap those before
                offset = add_offsets(steps, splat_offset(best, offsets, tap + i))
                best, best_won = larger_of_lanes(best, best_won, keyed(load(x, row + i), infinity), offset)
                i += lanes
    store(values, 0, best)
    if offsets is not None:
        store(offsets, 0, best_won)
    best_of_all, winner = lowest, first
    for i in range(lanes):
        if offsets is None:
            best_of_all = maximum(best_of_all, values[i])
        elif precedes(values[i], np.int64(offsets[i]), best_of_all, winner):
            best_of_all, winner = values[i], np.int64(offsets[i])
    return best_of_all, winner


@inlined
def pool_cells(x, origin, taps, first, lowest, infinity, geometry, inner):
    """One window, cell after cell."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (kd0, kd1), (kh0, kh1), (kw0, kw1) = taps
    best, winner = lowest, first
    for kd in range(kd0, kd1):
        for kh in range(kh0, kh1):
            for kw in range(kw0, kw1):
                value = key(x[origin + ((kd * dd * H + kh * dh) * W + kw * dw) * inner], infinity)
                if wins(value, best):
                    best, winner = value, (kd * KH + kh) * KW + kw
    return best, winner


@kernel
def max_pool_direct(x, y, argmax, infinity, lowest, geometry, inner, columns, scratch, start, stop):
    """Units are so many windows of a row. Each is read where it lies, cell by cell or neighbours in vectors.

    For windows that are too large to be packed, or share so few cells that they gain nothing from it.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    lanes, (offsets_begin, _) = lanes_in(x), direct_scratch(x.itemsize, itemsize_of(argmax))
    values, offsets = carve(scratch, 0, lanes, x), carve(scratch, offsets_begin, lanes, argmax)
    column_blocks = -(-OW // columns)
    for unit in range(start, stop):
        row, column_block = divmod(unit, column_blocks)
        rest, oh = divmod(row, OH)
        plane, od = divmod(rest, OD)
        d0, h0 = od * sd - pd, oh * sh - ph
        over_d = first_tap(d0, dd), after_last_tap(d0, KD, dd, D)
        over_h = first_tap(h0, dh), after_last_tap(h0, KH, dh, H)
        for ow in range(column_block * columns, min((column_block + 1) * columns, OW)):
            w0 = ow * sw - pw
            taps = over_d, over_h, (first_tap(w0, dw), after_last_tap(w0, KW, dw, W))
            origin, to = (((plane * D + d0) * H + h0) * W + w0) * inner, (row * OW + ow) * inner
            first = first_cell((d0, h0, w0), geometry)
            channel = 0
            while inner >= lanes and channel < inner:
                channel = min(channel, inner - lanes)  # the last lanes rather overlap those before
                pool_channels(x, y, argmax, to, channel, origin, taps, first, lowest, infinity, geometry, inner)
                channel += lanes
            while channel < inner:
                if inner == dw == 1 and taps[2][1] - taps[2][0] >= lanes:
                    best, winner = pool_rows(x, values, offsets, origin, taps, first, lowest, infinity, geometry)
                else:
                    best, winner = pool_cells(x, origin + channel, taps, first, lowest, infinity, geometry, inner)
                y[to + channel] = best
                if argmax is not None:
                    argmax[to + channel] = winner
                channel += 1
            if infinity is not None:
                for i in range(to, to + inner):
                    y[i] = unkeyed(y[i], infinity)


@inlined
def lay_out_windows(slopes, winners, dy, argmax, origin, top, left, size, OH, OW, inner, infinity):
    """The windows that reach into a block of cells, as many rows and columns, `pitch` to a row, as `size` says.

    Those that do not exist have the gradient 0.
    """
    rows, columns, pitch = size
    lanes = lanes_in(slopes)
    zeros = beside(load(slopes, 0), slopes.dtype.type(0))
    begin = min(max(-left, 0), columns) * inner
    end = max(min(OW - left, columns) * inner, begin)
    rest = first_of(zeros, (end - begin) % lanes)
    for row in range(rows):
        to, source, i = row * pitch * inner, origin + row * OW * inner, 0
        if 0 <= top + row < OH:
            i = begin
            while i < end and source + i + lanes <= len(argmax):
                store(winners, to + i, load_beside(zeros, argmax, source + i))
                i += lanes
            while i < end:
                winners[to + i] = argmax[source + i]
                i += 1
            fill_lanes(slopes, to, to + begin, zeros)
            i = widen_row(slopes, to, dy, source, begin, end, rest, zeros, infinity)
        fill_lanes(slopes, to + i, to + columns * inner, zeros)


@inlined
def gather(total, slopes, winners, count, origin, sources, taps, begin, end, dx, to):
    """Each cell's sum of the gradients of the windows that it won, window after window: two times as many lanes."""
    lanes = lanes_in(total)
    for i in range(0, count, positive(2 * lanes)):
        low = beside(load(total, 0), total.dtype.type(0))
        high = low
        fetch_to_write(dx, to + i)
        fetch_to_write(dx, to + i + lanes)
        tap = begin
        while tap < end:
            source = origin + i - sources[np.uint64(tap)]
            named = load_beside(low, taps, tap)
            low_won = load_beside(low, winners, source) == named
            high_won = load_beside(low, winners, source + lanes) == named
            low = where(low_won, low + load(slopes, source), low)
            high = where(high_won, high + load(slopes, source + lanes), high)
            tap += lanes
        store(total, i, low)
        store(total, i + lanes, high)


@inlined
def spread_row(dx, cells, step, count, infinity):
    """Sums as gradients of every step-th of `count` cells."""
    for i in range((count + step - 1) // step):
        dx[np.uint64(i * step)] = narrowed(cells[i], infinity)


@kernel
def max_pool_backward_by_taps(dy, argmax, dx, infinity, sums, geometry, inner, block, scratch, start, stop):
    """Units are blocks of cells, rows by columns in strides. Each cell asks every window that covers it, in order.

    The cells of one phase of the stride are covered by the same taps, so that they are one run, with the row of
    windows behind each that reach into it. Last tap first: gradients arrive in the row-major order of the windows.

    Where windows are `alike` they are asked where they lie. What a cell then takes for a window across an edge is one
    at the other end of a row, or in the next plane: no tap of it that is a cell of its own lies where the cell asks.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns, alike = block
    all_rows, all_columns = (H + ph + sh - 1) // sh, (W + pw + sw - 1) // sw
    row_blocks, column_blocks = -(-all_rows // block_rows), -(-all_columns // block_columns)
    back_h, back_w, lanes = (KH - 1) * dh // sh, (KW - 1) * dw // sw, lanes_in(sums)
    laid_pitch, plane_of_windows = block_columns + back_w, OH * OW * inner
    slice_size, slopes_size, phase_size, taps_of_all, _ = by_taps_scratch(
        geometry, inner, block, sums.itemsize, argmax.itemsize
    )
    values, begin = slopes_size + sh * sw * phase_size + 2 * lanes, 0
    room, begin = carve(scratch, begin, values, sums), begin + scratch_bytes(values, sums.itemsize)
    values = slopes_size + taps_of_all
    offset_room, begin = carve(scratch, begin, values, argmax), begin + scratch_bytes(values, argmax.itemsize)
    sources, begin = carve(scratch, begin, taps_of_all, np.int64), begin + scratch_bytes(taps_of_all, 8)
    phase_begins = carve(scratch, begin, sh * sw + 1, np.int64)
    # Up to here dx belongs to this call: where its rows are whole, its units lie one behind the other.
    rows_before = max(min(stop % row_blocks * block_rows * sh - ph, H), 0)
    limit = (stop // row_blocks * H + rows_before) * W * inner
    planned = -1, -1, False

    for unit in range(start, stop):
        slopes, cells = part(room, 0, slopes_size), onward(room, slopes_size)
        winners, taps = part(offset_room, 0, slopes_size), onward(offset_room, slopes_size)
        rest, column_block = divmod(unit, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        plane, d = divmod(rest, D)
        first_row, first_column = row_block * block_rows, column_block * block_columns
        rows, columns = min(block_rows, all_rows - first_row), min(block_columns, all_columns - first_column)

        # The slices of windows that reach this one of cells, first to last, are those of certain taps, last to first.
        first_kd, last_kd, first_od = KD, -1, 0
        for kd in range(KD):
            od, between = divmod(d + pd - kd * dd, sd)
            if between == 0 and 0 <= od < OD:
                first_kd, last_kd, first_od = min(first_kd, kd), kd, od
        at = (plane * OD + first_od) * plane_of_windows + (first_row * OW + first_column) * inner
        end = at + (last_kd - first_kd) * dd // sd * plane_of_windows + ((rows - 1) * OW + columns) * inner
        readable = at >= (back_h * OW + back_w) * inner and end + 2 * lanes <= len(dy)
        as_is = alike and readable
        pitch, slice_step, origin = laid_pitch, slice_size, (back_h * laid_pitch + back_w) * inner
        if as_is:
            slopes, winners = in_place_of(slopes, dy), onward(argmax, 0)
            pitch, slice_step, origin = OW, plane_of_windows, at
        slices = 0
        for kd in range(last_kd, last_kd if as_is else first_kd - 1, -1):
            further, between = divmod((last_kd - kd) * dd, sd)
            if between == 0:
                top, left = first_row - back_h, first_column - back_w
                source = (((plane * OD + first_od + further) * OH + top) * OW + left) * inner
                to, to_won = onward(slopes, slices * slice_size), onward(winners, slices * slice_size)
                size = rows + back_h, columns + back_w, pitch
                lay_out_windows(to, to_won, dy, argmax, source, top, left, size, OH, OW, inner, infinity)
                slices += 1
        if planned != (first_kd, last_kd, as_is):
            # Which windows, how far back, cover the cells of each phase of the stride, and with which tap.
            found, planned = 0, (first_kd, last_kd, as_is)
            for phase in range(sh * sw):
                phase_begins[phase], one = found, 0
                for kd in range(last_kd, first_kd - 1, -1):
                    further, between = divmod((last_kd - kd) * dd, sd)
                    if between != 0:
                        continue
                    to_slice = (further if as_is else one) * slice_step
                    for kh in range(KH - 1, -1, -1):
                        for kw in range(KW - 1, -1, -1):
                            if kh * dh % sh * sw + kw * dw % sw == phase:
                                sources[found] = (kh * dh // sh * pitch + kw * dw // sw) * inner - to_slice
                                tap = argmax.dtype.type((kd * KH + kh) * KW + kw)
                                store(taps, found, beside(load(cells, 0), tap))
                                found += lanes
                    one += 1
            phase_begins[sh * sw] = found

        to, count = ((plane * D + d) * H + first_row * sh) * W * inner, ((rows - 1) * pitch + columns) * inner
        for phase in range(sh * sw):
            total = onward(cells, phase * phase_size)
            begin, end = phase_begins[phase], phase_begins[phase + 1]
            gather(total, slopes, winners, count, origin, sources, taps, begin, end, dx, to + phase * count)

        if as_is and sh == sw == column_blocks == 1 and OW == W:  # sums lie as the cells do
            first, end = max(first_row - ph, 0), min(first_row + rows - ph, H)
            at, to = ((first + ph - first_row) * pitch + pw) * inner, ((plane * D + d) * H + first) * W * inner
            narrow_row(dx, to, limit, onward(cells, at), (end - first) * W * inner, infinity)
            continue
        w0 = first_column * sw - pw
        w1 = min(w0 + columns * sw, W)
        w0 = max(w0, 0)
        first, first_phase = divmod(w0 + pw - first_column * sw, sw)
        for row in range(rows):
            for row_phase in range(sh):
                h = (first_row + row) * sh + row_phase - ph
                if not 0 <= h < H:
                    continue
                to = (((plane * D + d) * H + h) * W + w0) * inner
                row_limit = limit if column_blocks == 1 else to + (w1 - w0) * inner
                at = row_phase * sw * phase_size + (row * pitch + first) * inner
                if sw == 1:
                    narrow_row(dx, to, row_limit, onward(cells, at), (w1 - w0) * inner, infinity)
                elif sw == 2 and inner == 1:
                    one, other = onward(cells, at), onward(cells, at + phase_size)
                    if first_phase == 1:
                        one, other = other, onward(one, 1)
                    narrow_zipped(dx, to, row_limit, one, other, w1 - w0, infinity)
                elif inner == 1:
                    for phase in range(sw):
                        begin = (phase - first_phase) % sw
                        column = (begin + first_phase) // sw
                        spread_row(
                            onward(dx, to + begin),
                            onward(cells, at + phase * phase_size + column),
                            sw,
                            w1 - w0 - begin,
                            infinity,
                        )
                else:
                    for w in range(w1 - w0):
                        column, phase = divmod(w + first_phase, sw)
                        cell = onward(cells, at + phase * phase_size + column * inner)
                        narrow_row(dx, to + w * inner, row_limit, cell, inner, infinity)


@inlined
def won_by(slopes, argmax, at, tap):
    """Gradients from `at` on where the winner is one certain tap, and 0 elsewhere."""
    lanes = load(slopes, at)
    won = load_beside(lanes, argmax, at) == beside(lanes, argmax.dtype.type(tap))
    return where(won, lanes, beside(lanes, slopes.dtype.type(0)))


@inlined
def put_won_side_by_side(dx, to, dy, argmax, source, tap, taps):
    """Lanes of gradients, each beside 0 for those of 2, 3, 4, 5 or 8 neighbouring taps that did not win."""
    slopes = load(dy, source)
    winners, first = load_beside(slopes, argmax, source), argmax.dtype.type(tap)
    if taps == 2:
        store_won_2(dx, to, slopes, winners, first)
    elif taps == 3:
        store_won_3(dx, to, slopes, winners, first)
    elif taps == 4:
        store_won_4(dx, to, slopes, winners, first)
    elif taps == 5:
        store_won_5(dx, to, slopes, winners, first)
    else:
        store_won_8(dx, to, slopes, winners, first)


@kernel
def max_pool_backward_of_tiles(dy, argmax, dx, geometry, inner, scratch, start, stop):
    """Units are rows of windows side by side, so that each cell is of one window: its gradient, or 0; or of none.

    Rows are written in whole lanes: what spills over the end of one is written again with the next, or else the last
    lanes overlap those before.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    lanes, width, covered, zero = lanes_in(dy), W * inner, OW * KW * inner, dy.dtype.type(0)
    run = inner if KW > 1 and inner > 1 else OW * inner  # so many gradients are read one after the other
    lanes_beyond = -run % lanes
    beyond = lanes_beyond * (KW if inner == 1 else 1)
    for unit in range(start, stop):
        rest, oh = divmod(unit, OH)
        plane, od = divmod(rest, OD)
        first_slice, source = plane * D + od * KD, unit * OW * inner
        readable = source + OW * inner + lanes_beyond <= len(dy)
        row, limit = (first_slice * H + oh * KH) * width, (first_slice * H + min(stop - rest * OH, OH) * KH) * width
        kh = 0
        for tap in range(0, KD * KH * KW, positive(KW)):
            i, cell = 0, 0
            whole = readable and row + covered + beyond <= limit
            last = run if whole else run - lanes
            if not whole and run < lanes:
                while cell < covered:
                    ow, kw = divmod(cell // inner, KW)
                    at = source + ow * inner + cell % inner
                    dx[row + cell] = dy[at] if argmax[at] == tap + kw else zero
                    cell += 1
            elif KW == 1:
                while i < run:
                    i = min(i, last)
                    store(dx, row + i, won_by(dy, argmax, source + i, tap))
                    i += lanes
            elif inner == 1:
                while i < run:
                    i = min(i, last)
                    put_won_side_by_side(dx, row + i * KW, dy, argmax, source + i, tap, KW)
                    i += lanes
            else:
                while cell < OW * KW:
                    ow, kw = divmod(cell, KW)
                    i = 0
                    while i < run:
                        i = min(i, last)
                        at = source + ow * inner + i
                        store(dx, row + cell * inner + i, won_by(dy, argmax, at, tap + kw))
                        i += lanes
                    cell += 1
            fill(part(dx, row + covered, width - covered), zero)
            row, kh = row + width, kh + 1
            if kh == KH:
                kh, row, limit = 0, row + (H - KH) * width, limit + H * width
        if oh == OH - 1:
            for one in range(KD if od < OD - 1 else D - od * KD):
                covered_rows = OH * KH if one < KD else 0
                fill(part(dx, ((first_slice + one) * H + covered_rows) * width, (H - covered_rows) * width), zero)


@inlined
def tap_along(offset, number, behind, kernel):
    """The tap of an offset along one axis, where so many taps lie `behind` each: in float, which vectors divide by."""
    offset = number(offset) + number(0.5)  # the half makes up for what the quotients are rounded by
    return np.floor(offset * (number(1) / number(behind))) - (
        np.floor(offset * (number(1) / number(behind * kernel))) * number(kernel)
    )


@inlined
def any_outside(argmax, lows, highs, behind, kernel):
    """Whether the tap along one axis of any offset lies below its low bound, or not below its high one."""
    outside = False
    for i in range(len(argmax)):
        tap = tap_along(argmax[i], lows.dtype.type, behind, kernel)
        outside |= (tap < lows[i]) | (tap >= highs[i])
    return outside


@inlined
def any_outside_of(argmax, step, low, high, number, behind, kernel):
    """The same for every step-th offset, and the same bounds for all."""
    outside = False
    for i in range(0, len(argmax), positive(step)):
        tap = tap_along(argmax[np.uint64(i)], number, behind, kernel)
        outside |= (tap < low) | (tap >= high)
    return outside


@inlined
def has_cell(start, kernel, dilation, size):
    return first_tap(start, dilation) < after_last_tap(start, kernel, dilation, size)


@inlined
def is_real(offset, starts, geometry):
    """Whether an offset names a real cell of a window that starts at these coordinates; 0 if it has none."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    d, h, w = starts
    if not (has_cell(d, KD, dd, D) and has_cell(h, KH, dh, H) and has_cell(w, KW, dw, W)):
        return offset == 0
    rest, kw = divmod(np.int64(offset), KW)
    kd, kh = divmod(rest, KH)
    return 0 <= d + kd * dd < D and 0 <= h + kh * dh < H and 0 <= w + kw * dw < W


@kernel
def misplaced(argmax, found, geometry, inner, scratch, start, stop):
    """Whether any argmax names no cell of its window, or one of padding. Units are planes.

    First axis by axis: the windows that leave the input, or for many windows at once where most do. Where an offset
    then looks wrong, as it does where a window has no real cell, each window is asked.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    plane, most = OD * OH * OW * inner, argmax.dtype.type(0)
    run = part(argmax, start * plane, (stop - start) * plane)
    for i in range(len(run)):
        most = maximum(most, run[i])
    if most >= KD * KH * KW:
        found[0] = 1
        return
    period, nbytes = check_scratch(geometry, inner, argmax.itemsize)
    lows, highs = carve_bounds(argmax, scratch, 0, period), carve_bounds(argmax, scratch, nbytes // 2, period)
    number, suspect = lows.dtype.type, False
    for axis in range(3):
        size, kernel, stride = geometry[axis], geometry[3 + axis], geometry[6 + axis]
        before, dilation, out = geometry[9 + axis], geometry[12 + axis], geometry[15 + axis]
        taps_behind = KH * KW if axis == 0 else (KW if axis == 1 else 1)
        behind = elements_apart(axis, geometry, inner)
        begin, end = edges_along(axis, geometry)
        leaving, by_itself = begin + out - end, nbytes == 0 or asks_each_position(axis, geometry, inner, period)
        for edge in range(leaving if by_itself or leaving == 0 else out):
            one = edge + end - begin if by_itself and edge >= begin else edge
            first = one * stride - before
            low, high = number(first_tap(first, dilation)), number(after_last_tap(first, kernel, dilation, size))
            if by_itself and behind == 1:
                suspect |= any_outside_of(onward(run, one), out, low, high, number, taps_behind, kernel)
                continue
            for at in range(one * behind, len(run) if by_itself else period, positive(out * behind)):
                if by_itself:
                    suspect |= any_outside_of(part(run, at, behind), 1, low, high, number, taps_behind, kernel)
                else:
                    fill(part(lows, at, behind), low)
                    fill(part(highs, at, behind), high)
        for at in range(0, len(run) if leaving > 0 and not by_itself else 0, positive(period)):
            suspect |= any_outside(part(run, at, period), lows, highs, taps_behind, kernel)
    for i in range(len(run) if suspect else 0):
        rest, ow = divmod(i // inner, OW)
        rest, oh = divmod(rest, OH)
        if not is_real(run[i], (rest % OD * sd - pd, oh * sh - ph, ow * sw - pw), geometry):
            found[0] = 1
            return


@inlined
def cells_behind(offset, geometry, number):
    """How many cells of a plane lie between the start of a window and the cell of an offset; `number` counts taps."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    rest, kw = divmod(number(offset), number(KW))
    kd, kh = divmod(rest, number(KH))
    return (np.int64(kd) * dd * H + np.int64(kh) * dh) * W + np.int64(kw) * dw


def elements_behind(winner, behind, geometry, inner):
    """The same in elements, of the offset of a winner: looked up where it is a byte."""


@overload(elements_behind, jit_options=INLINED)
def _elements_behind(winner, behind, geometry, inner):
    if winner.bitwidth == 8:
        return lambda winner, behind, geometry, inner: behind[winner]
    # A window may have 2**32 taps along one axis, which no uint32 holds.
    number = np.uint32 if winner.bitwidth == 16 else np.uint64
    return lambda winner, behind, geometry, inner: cells_behind(winner, geometry, number) * inner


@kernel
def max_pool_backward(dy, argmax, dx, infinity, geometry, inner, tile, scratch, start, stop):
    """Units are tiles of dx, rows by columns by channels: whole rows, or a piece of one, or one of a single cell.

    Each is zeroed, then every window that can reach it adds to it, in order.
    For windows of many taps; its work does not grow with their number. Neighbouring windows often add to one cell, and
    each would wait for the one before: so the loop inside goes over channels, or over some planes, where cells differ.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    tile_rows, tile_columns, most_planes, tile_channels = tile
    rows, width, windows = D * H, W * inner, OD * OH * OW * inner
    row_tiles, column_tiles, channel_tiles = -(-rows // tile_rows), -(-W // tile_columns), -(-inner // tile_channels)
    # How many elements an offset lies behind the start of its window.
    table, _ = backward_scratch(tile, argmax.itemsize, 0)
    behind = carve(scratch, 0, table // 8, np.int64)
    for offset in range(len(behind)):
        behind[offset] = cells_behind(offset, geometry, np.uint32) * inner
    scratch_of_sums = onward(scratch, table)

    at = start
    while at < stop:
        rest, channel_tile = divmod(at, channel_tiles)
        rest, column_tile = divmod(rest, column_tiles)
        plane, row_tile = divmod(rest, row_tiles)
        planes = min(stop - at, most_planes)
        at += planes
        first, left = row_tile * tile_rows, column_tile * tile_columns
        end, right = min(first + tile_rows, rows), min(left + tile_columns, W)
        channel = channel_tile * tile_channels
        channels = min(tile_channels, inner - channel)
        size = (end - first) * (right - left) * channels
        into = part(dx, (plane * rows + first) * width + left * inner + channel, planes * size)
        total = scratch_for_sums(into, scratch_of_sums, infinity)
        fill(total, 0)
        count, step, to_next = (planes, windows, size) if inner == 1 else (channels, 1, 1)
        first_ow, end_ow = 0, OW
        if column_tiles > 1:
            first_ow, end_ow = first_window(left, (KW - 1) * dw + 1, sw, pw), after_last_window(right - 1, sw, pw, OW)
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
                row, source = (d0 * H + h0 - first) * width, plane * windows + (od * OH + oh) * OW * inner + channel
                for ow in range(first_ow, end_ow):
                    w0 = ow * sw - pw
                    if not (0 <= w0 < W or has_cell(w0, KW, dw, W)):
                        continue
                    origin = row + (w0 - left) * inner
                    slopes, winners = onward(dy, source + ow * inner), onward(argmax, source + ow * inner)
                    for i in range(count):
                        number = origin + elements_behind(winners[np.uint64(i * step)], behind, geometry, inner)
                        if np.uint64(number) < np.uint64(size):
                            total[np.uint64(number + i * to_next)] += widened(slopes[np.uint64(i * step)], infinity)
        if infinity is not None:
            for i in range(len(into)):
                into[i] = narrowed(total[i], infinity)


@kernel
def max_unpool(y, indices, x, windows, cells, inner, scratch, start, stop):
    """Units are planes, of so many windows and cells. Indices are the caller's own: another thread may change them."""
    for plane in range(start, stop):
        to = part(x, plane * cells * inner, cells * inner)
        for i in range(windows):
            source = (plane * windows + i) * inner
            for c in range(inner):
                cell = np.uint64(indices[source + c])
                if cell < np.uint64(cells):
                    to[cell * np.uint64(inner) + np.uint64(c)] = y[source + c]
