"""Max pooling, its gradient and its inverse. Maxout is pooling along the channels and needs nothing of its own.

Arrays arrive flat. A plane has rows of W * inner numbers, so that one loop serves both layouts.
"""

import numpy as np

from fastpool.backends.numba.compilation import inlined, kernel
from fastpool.backends.numba.scalars import (
    after_last_tap,
    after_last_window,
    first_tap,
    first_window,
    key,
    maximum,
    narrowed,
    offsets,
    onward,
    part,
    room_for_sums,
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
def larger(out, a, b):
    for i in range(len(out)):
        out[i] = maximum(a[i], b[i])


@inlined
def enlarge(out, row):
    for i in range(len(out)):
        out[i] = maximum(out[i], row[i])


# Beside each run of values goes a run of offsets: who won. What comes later has a larger offset, so it needs more
# than a tie: `ahead` is how much larger.


@inlined
def winners(out, won, a, a_won, b, b_won, ahead):
    ahead = won.dtype.type(ahead)
    for i in range(len(out)):
        better = wins(b[i], a[i])
        out[i] = b[i] if better else a[i]
        won[i] = won.dtype.type(b_won[i] + ahead) if better else a_won[i]


@inlined
def challenge(out, won, row, row_won, ahead):
    ahead = won.dtype.type(ahead)
    for i in range(len(out)):
        better = wins(row[i], out[i])
        out[i] = row[i] if better else out[i]
        won[i] = won.dtype.type(row_won[i] + ahead) if better else won[i]


@inlined
def larger_pairs(out, row):
    """The larger of each two neighbours. Both at once, since LLVM turns such a pair of loads into shuffles."""
    for i in range(len(out)):
        out[i] = maximum(row[2 * i], row[2 * i + 1])


@inlined
def enlarge_pairs(out, row):
    for i in range(len(out)):
        out[i] = maximum(out[i], maximum(row[2 * i], row[2 * i + 1]))


@inlined
def winner_pairs(out, won, row):
    for i in range(len(out)):
        a, b = row[2 * i], row[2 * i + 1]
        better = wins(b, a)
        out[i] = b if better else a
        won[i] = 1 if better else 0


@inlined
def challenge_pairs(out, won, row, tap):
    tap = won.dtype.type(tap)
    for i in range(len(out)):
        a, b = row[2 * i], row[2 * i + 1]
        better = wins(a, out[i])
        best, at = a if better else out[i], tap if better else won[i]
        better = wins(b, best)
        out[i] = b if better else best
        won[i] = won.dtype.type(tap + won.dtype.type(1)) if better else at


@inlined
def window_maximum(out, won, a, a_won, taps, step, weight, spare, spare_won):
    """out[i] = the maximum of a[i + t * step] over all taps t, whose offset grows by `weight` a tap.

    Many taps by doubling: windows of 2, 4, 8 ... taps, then two of those that overlap.
    """
    n = len(out)
    if taps == 1:
        copy(out, a)
        if won is not None:
            copy(won, a_won)
        return
    width, source, source_won = 1, a, a_won
    if taps > 4:
        turn = 0
        while 2 * width < taps:
            length = n + (taps - 2 * width) * step
            to = part(spare, turn * (len(spare) // 2), length)
            right = onward(source, width * step)
            if won is None:
                larger(to, source, right)
            else:
                to_won = part(spare_won, turn * (len(spare) // 2), length)
                winners(to, to_won, source, source_won, right, onward(source_won, width * step), width * weight)
                source_won = to_won
            source, width, turn = to, 2 * width, 1 - turn
    first = taps - width if taps > 4 else 1
    if won is None:
        larger(out, source, onward(source, first * step))
    else:
        ahead = first * step
        winners(out, won, source, source_won, onward(source, ahead), onward(source_won, ahead), first * weight)
    if taps <= 4:
        for tap in range(2, taps):
            if won is None:
                enlarge(out, onward(a, tap * step))
            else:
                challenge(out, won, onward(a, tap * step), onward(a_won, tap * step), tap * weight)


@inlined
def take_cells(out, row, stride, inner):
    """Every stride-th cell of a row; a cell is `inner` numbers."""
    if inner == 1:
        for i in range(len(out)):
            out[i] = row[i * stride]
        return
    for cell in range(len(out) // inner):
        copy(part(out, cell * inner, inner), onward(row, cell * stride * inner))


@inlined
def stepped_maximum(out, won, a, zeros, taps, stride, dilation, inner, spare):
    """`window_maximum` for every stride-th cell."""
    if inner == 1 and stride == 2 and dilation == 1 and taps > 1:
        # The last pair may hold a cell that the one before it held: that changes nothing.
        for pair in range((taps + 1) // 2):
            tap = min(2 * pair, taps - 2)
            if won is None:
                if pair == 0:
                    larger_pairs(out, a)
                else:
                    enlarge_pairs(out, onward(a, tap))
            elif pair == 0:
                winner_pairs(out, won, a)
            else:
                challenge_pairs(out, won, onward(a, tap), tap)
        return
    take_cells(out, a, stride, inner)
    if won is not None:
        fill(won, 0)
    for tap in range(1, taps):
        row = part(spare, 0, len(out))
        take_cells(row, onward(a, tap * dilation * inner), stride, inner)
        if won is None:
            enlarge(out, row)
        else:
            challenge(out, won, row, zeros, tap)


@inlined
def lay_out(cells, x, slice_start, top, left, rows, columns, H, W, inner, lowest, infinity):
    """The cells under a block of windows, [row, column], padding included."""
    begin = min(max(-left, 0), columns)
    end = max(min(W - left, columns), begin)
    for row in range(rows):
        h = top + row
        to = part(cells, row * columns * inner, columns * inner)
        if not 0 <= h < H:
            fill(to, lowest)
            continue
        fill(part(to, 0, begin * inner), lowest)
        fill(onward(to, end * inner), lowest)
        source = onward(x, (slice_start + h * W + left + begin) * inner)
        into = part(to, begin * inner, (end - begin) * inner)
        for i in range(len(into)):
            into[i] = key(source[i], infinity)


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
    """Units are blocks of windows, `block` rows by columns. First the maximum along the rows, then down the columns.

    Every tap is one shifted run over all rows of the block at once. In this order a later tap has a larger offset,
    so that the first of equal cells stays without a look at the offsets.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_rows, block_columns = block
    row_blocks, column_blocks = (OH + block_rows - 1) // block_rows, (OW + block_columns - 1) // block_columns
    reach_h, reach_w = (KH - 1) * dh, (KW - 1) * dw
    room_rows = (block_rows - 1) * sh + reach_h + 1
    room_columns = (block_columns - 1) + reach_w // sw + 1
    room = room_rows * max(room_columns, (W + sw - 1) // sw if block_columns == OW else 0) * inner
    laid = np.empty(room * sw, x.dtype)
    along_room = np.empty(room, x.dtype)
    down_room = np.empty(room, x.dtype)
    slice_room = np.empty(room if KD > 1 else 0, x.dtype)
    spare = np.empty(2 * room if KW > 4 or KH > 4 or sw > 1 else 0, x.dtype)
    along_won_room, down_won_room = offsets(argmax, len(along_room)), offsets(argmax, len(down_room))
    slice_won_room, spare_won = offsets(argmax, len(slice_room)), offsets(argmax, len(spare))
    zeros = offsets(argmax, room * sw)
    if argmax is not None:
        fill(zeros, 0)

    for unit in range(start, stop):
        rest, column_block = divmod(unit, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        plane, od = divmod(rest, OD)
        oh, ow = row_block * block_rows, column_block * block_columns
        out_rows, out_columns = min(block_rows, OH - oh), min(block_columns, OW - ow)
        rows = (out_rows - 1) * sh + reach_h + 1
        pitch = out_columns + reach_w // sw
        d0, top, left = od * sd - pd, oh * sh - ph, ow * sw - pw
        out_at = ((plane * OD + od) * OH + oh) * OW + ow

        # Where rows of cells lie in memory as they would be laid out, they are read there.
        reaches_to = left + (out_columns - 1) * sw + reach_w
        inside = top >= 0 and left >= 0 and top + rows <= H and reaches_to < W
        whole_rows = left == 0 and W % sw == 0 and out_columns == OW
        as_is = infinity is None and inside and (rows == 1 or whole_rows)
        if as_is and rows > 1:
            pitch = W // sw
        as_is_out = pitch == out_columns and (out_rows == 1 or out_columns == OW)
        run = ((rows - 1) * pitch + out_columns) * inner
        out_run = ((out_rows - 1) * pitch + out_columns) * inner

        best, best_won = part(down_room, 0, out_run), part(down_won_room, 0, out_run)
        if as_is_out:
            best, best_won = part(y, out_at * inner, out_run), part(argmax, out_at * inner, out_run)

        kd0, kd1 = first_tap(d0, dd), after_last_tap(d0, KD, dd, D)
        for kd in range(kd0, kd1):
            slice_start = (plane * D + d0 + kd * dd) * H * W
            if as_is:
                cells = onward(x, (slice_start + top * W + left) * inner)
            else:
                cells = onward(laid, 0)
                lay_out(laid, x, slice_start, top, left, rows, pitch * sw, H, W, inner, lowest, infinity)

            along, along_won = part(along_room, 0, run), part(along_won_room, 0, run)
            if sw > 1:
                stepped_maximum(along, along_won, cells, zeros, KW, sw, dw, inner, spare)
            elif KW > 1:
                window_maximum(along, along_won, cells, zeros, KW, dw * inner, 1, spare, spare_won)
            else:
                along, along_won = part(cells, 0, run), part(zeros, 0, run)

            found, found_won = part(slice_room, 0, out_run), part(slice_won_room, 0, out_run)
            if kd == kd0:
                found, found_won = best, best_won
            if KH > 1 or sh > 1:
                # With a step of one all rows are one run.
                runs, length = (1, out_run) if sh == 1 else (out_rows, out_columns * inner)
                for row in range(runs):
                    at, source = row * pitch * inner, row * sh * pitch * inner
                    out, won = part(found, at, length), part(found_won, at, length)
                    rest_won = onward(along_won, source)
                    step = dh * pitch * inner
                    window_maximum(out, won, onward(along, source), rest_won, KH, step, KW, spare, spare_won)
            elif kd == kd0:
                copy(best, along)
                if argmax is not None:
                    copy(best_won, along_won)
            else:
                found, found_won = along, along_won

            if argmax is None:
                if kd > kd0:
                    enlarge(best, found)
            elif kd > kd0:
                challenge(best, best_won, found, found_won, kd * KH * KW)
            elif kd > 0:
                for i in range(out_run):
                    best_won[i] += argmax.dtype.type(kd * KH * KW)
        if kd0 >= kd1:
            fill(best, lowest)
            if argmax is not None:
                fill(best_won, 0)

        for row in range(out_rows):
            to, source = (out_at + row * OW) * inner, row * pitch * inner
            into = part(y, to, out_columns * inner)
            if not as_is_out:
                copy(into, onward(best, source))
            if argmax is not None:
                into_won = part(argmax, to, out_columns * inner)
                if not as_is_out:
                    copy(into_won, onward(best_won, source))
                mend_padding(into, into_won, lowest, (d0, top + row * sh, left), geometry, inner)
            if infinity is not None:
                for i in range(len(into)):
                    into[i] = unkeyed(into[i], infinity)


@inlined
def mend_padding(best, offset, lowest, starts, geometry, inner):
    """Where the maximum is the lowest value, padding may have come first: the first real cell is the winner."""
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
        narrow(part(row, 0, len(cells)), cells, infinity)
    elif inner == 1:
        for i in range(len(cells)):
            row[i * step] = narrowed(cells[i], infinity)
    else:
        for cell in range(len(cells) // inner):
            narrow(part(row, cell * step * inner, inner), onward(cells, cell * inner), infinity)


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
        to = part(slopes, row * columns * inner, columns * inner)
        if not 0 <= oh < OH:
            fill(to, 0)
            continue
        fill(part(to, 0, begin * inner), 0)
        fill(onward(to, end * inner), 0)
        source = (at + oh * OW + first_column + begin) * inner
        count = (end - begin) * inner
        widen(part(to, begin * inner, count), onward(dy, source), infinity)
        copy(part(winners, (row * columns + begin) * inner, count), onward(argmax, source))


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
                even = part(cells, at + pairs_begin, pairs_end - pairs_begin)
                odd = part(cells, at + rows * length + pairs_begin, pairs_end - pairs_begin)
                put_pairs(onward(dx, line + left + 2 * pairs_begin), even, odd, infinity)
            for column_phase in range(sw):
                source = part(cells, at + column_phase * rows * length, length)
                first = left + column_phase
                begin = 0 if first >= 0 else min((-first + sw - 1) // sw, columns)
                end = max(min((right - first + sw - 1) // sw, columns), begin)
                if paired:
                    if begin < pairs_begin:
                        edge = part(source, begin, pairs_begin - begin)
                        put_cells(onward(dx, line + first + begin * 2), edge, 2, 1, infinity)
                    if pairs_end < end:
                        edge = part(source, pairs_end, end - pairs_end)
                        put_cells(onward(dx, line + first + pairs_end * 2), edge, 2, 1, infinity)
                elif end > begin:
                    into = onward(dx, (line + first + begin * sw) * inner)
                    put_cells(into, part(source, begin * inner, (end - begin) * inner), sw, inner, infinity)


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
        phase = rows * columns * inner
        run = phase - back_columns * inner
        # Windows along the depth alone have the form in memory already.
        direct = KH * KW * sh * sw == 1 and ph == 0 and pw == 0 and OH == H and OW == W and (rows == 1 or columns == W)
        here = ((plane * D + d) * H + first_row) * W + first_column
        total = part(where_it_lies(direct, onward(dx, here * inner), cells, infinity), 0, sh * sw * phase)
        fill(total, 0)
        for kd in range(KD - 1, -1, -1):
            od, between = divmod(d + pd - kd * dd, sd)
            if between != 0 or not 0 <= od < OD:
                continue
            top, left = first_row - back_rows, first_column - back_columns
            at = (plane * OD + od) * OH * OW
            gradients, chosen = onward(slopes, 0), onward(winners, 0)
            if direct and infinity is None:
                there = (at + first_row * W + first_column) * inner
                gradients = where_it_lies(direct, onward(dy, there), slopes, infinity)
                chosen = onward(argmax, there)
            else:
                lay_out_windows(
                    slopes, winners, dy, argmax, at, top, left, rows + back_rows, columns, OH, OW, inner, infinity
                )
            for kh in range(KH - 1, -1, -1):
                row_shift, row_phase = divmod(kh * dh, sh)
                for kw in range(KW - 1, -1, -1):
                    column_shift, column_phase = divmod(kw * dw, sw)
                    to = part(total, (row_phase * sw + column_phase) * phase, run)
                    source = ((back_rows - row_shift) * columns + back_columns - column_shift) * inner
                    tap = argmax.dtype.type((kd * KH + kh) * KW + kw)
                    add_where(to, onward(gradients, source), onward(chosen, source), tap)
        if direct and infinity is None:
            continue
        top, left = first_row * sh - ph, first_column * sw - pw
        right = min(W, left + (columns - back_columns) * sw)
        put_back(dx, total, (plane * D + d) * H * W, top, left, rows, columns, H, W, right, sh, sw, inner, infinity)


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
        into = part(dx, (plane * rows + first) * width, (end - first) * width)
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
                slopes, winners = onward(dy, out), onward(argmax, out)
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


@kernel
def max_unpool(y, indices, x, start, stop):
    """Units are planes, (outer, cells, inner)."""
    for plane in range(start, stop):
        fill(x[plane].reshape(-1), 0)
        for i in range(y.shape[1]):
            for c in range(y.shape[2]):
                if indices[plane, i, c] >= 0:
                    x[plane, indices[plane, i, c], c] = y[plane, i, c]
