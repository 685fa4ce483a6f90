"""im2col and col2im. The columns are flat, with a step each for image, channel, tap and position."""

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.compilation import INLINED, inlined, kernel
from fastpool.backends.numba.lanes import beside, evens, first_of, lanes_in, load, store, where
from fastpool.backends.numba.pool import fill, fill_lanes
from fastpool.backends.numba.scalars import narrowed, onward, part, room_for_sums, widened


@inlined
def covered(tap, stride, before, dilation, size, out):
    """From which window on, and before which, a tap lies on real cells."""
    start = tap * dilation - before
    first = 0 if start >= 0 else (-start + stride - 1) // stride
    end = 0 if start >= size else (size - 1 - start) // stride + 1
    return min(first, out), max(min(end, out), min(first, out))


@inlined
def put(column, step, value, begin, end):
    if begin < end:
        to = onward(column, begin * step)
        for i in range(end - begin):
            to[i * step] = value


@inlined
def put_cells(column, step, begin, end, cells, cell_step):
    """A run of cells into a column."""
    to = onward(column, begin * step)
    for i in range(end - begin):
        to[np.uint64(i * step)] = cells[np.uint64(i * cell_step)]


@inlined
def put_row(row, count, begin, end, cells, cell_step, fill_value):
    """The same in whole lanes, with what surrounds the cells in a row; what spills over is written again later."""
    i, lanes = begin, lanes_in(row)
    value = beside(load(row, 0), fill_value)
    fill_lanes(row, 0, begin, value)
    while i < end:
        source = (i - begin) * cell_step
        a = load(cells, source)
        store(row, i, evens(a, load(cells, source + lanes)) if cell_step == 2 else a)
        i += lanes
    fill_lanes(row, end, count, value)


@kernel
def im2col(x, cols, fill_value, geometry, x_steps, cols_steps, images, channels, start, stop):
    """Units are taps of channels of images, or where the images lie inside the columns, taps of channels."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    image_step, channel_step, cell_step = x_steps
    into_image, into_channel, into_tap, into_position = cols_steps
    taps = KD * KH * KW
    for unit in range(start, stop):
        rest, tap = divmod(unit, taps)
        first, channel = divmod(rest, channels)
        last = first + 1
        if into_position > 1:
            first, last = 0, images
        kd, kh, kw = tap // (KH * KW), tap // KW % KH, tap % KW
        begin, end = covered(kw, sw, pw, dw, W, OW)
        w = begin * sw - pw + kw * dw
        step, lanes = sw * cell_step, lanes_in(x)
        spills_to = first * into_image + channel * into_channel + tap * into_tap + OD * OH * OW
        for od in range(OD):
            d = od * sd - pd + kd * dd
            for oh in range(OH):
                h = oh * sh - ph + kh * dh
                real = 0 <= d < D and 0 <= h < H and end > begin
                column = channel * into_channel + tap * into_tap + (od * OH + oh) * OW * into_position
                source = channel * channel_step + ((d * H + h) * W + w) * cell_step
                for image in range(first, last):
                    at, cell = image * into_image + column, image * image_step + source
                    into = onward(cols, at)
                    whole = into_position == 1 and at + OW + lanes <= spills_to
                    if whole and not real:
                        put_row(into, OW, 0, 0, x, 1, fill_value)
                    elif whole and step <= 2 and cell + (end - begin + 2 * lanes) * step <= len(x):
                        put_row(into, OW, begin, end, onward(x, cell), step, fill_value)
                    elif real:
                        put(into, into_position, fill_value, 0, begin)
                        cells = onward(x, image * image_step + source)
                        put_cells(into, into_position, begin, end, cells, step)
                        put(into, into_position, fill_value, end, OW)
                    else:
                        put(into, into_position, fill_value, 0, OW)


@inlined
def add_cells(total, total_step, column, step, count, infinity):
    if total_step == 1 and step == 1:
        for i in range(count):
            total[i] += widened(column[i], infinity)
    else:
        for i in range(count):
            total[i * total_step] += widened(column[i * step], infinity)


def add_in_lanes(into, spare, cols, rows, count, taps, tap_step, dilation, before, OW, infinity):
    """A row of cells by lanes, each the sum over all taps of windows one cell apart; False if it cannot be done so."""


@overload(add_in_lanes, jit_options=INLINED)
def _add_in_lanes(into, spare, cols, rows, count, taps, tap_step, dilation, before, OW, infinity):
    if not isinstance(infinity, types.NoneType):
        return lambda into, spare, cols, rows, count, taps, tap_step, dilation, before, OW, infinity: False

    def add_in_lanes(into, spare, cols, rows, count, taps, tap_step, dilation, before, OW, infinity):
        lanes = lanes_in(into)
        for i in range(0, len(into), lanes):
            total = beside(load(spare, 0), into.dtype.type(0))
            for row in range(count):
                for tap in range(taps):
                    first = i + before - tap * dilation
                    begin, end, at = -first, OW - first, rows[row] + tap * tap_step + first
                    if begin >= lanes or end <= 0:
                        continue
                    if at < 0 or at + lanes > len(cols):
                        for lane in range(max(begin, 0), min(end, lanes)):
                            spare[lane] = cols[at + lane]
                        column = load(spare, 0)
                    else:
                        column = load(cols, at)
                    if begin <= 0 and end >= lanes:
                        total = total + column
                    else:
                        sums = where(first_of(total, end), total + column, total)
                        total = where(first_of(total, begin), total, sums)
            if i + lanes <= len(into):
                store(into, i, total)
            else:
                store(spare, 0, total)
                for lane in range(len(into) - i):
                    into[i + lane] = spare[lane]
        return True

    return add_in_lanes


@kernel
def col2im(cols, dx, infinity, geometry, cols_steps, channels, inner, start, stop):
    """Units are rows of dx: each gathers from all taps of all windows that cover it, in order of the taps."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    from_image, from_channel, from_tap, from_position = cols_steps
    spare, rows = np.empty(lanes_in(dx), dx.dtype), np.empty(KD * KH, np.int64)
    for unit in range(start, stop):
        plane, row = divmod(unit, D * H)
        d, h = divmod(row, H)
        into = part(dx, unit * W * inner, W * inner)
        if sw * inner == 1 and from_position == 1:
            image, channel = divmod(plane, channels)
            count = 0
            for kd in range(KD):
                od, between = divmod(d + pd - kd * dd, sd)
                for kh in range(KH):
                    oh, beside_rows = divmod(h + ph - kh * dh, sh)
                    if between == 0 and 0 <= od < OD and beside_rows == 0 and 0 <= oh < OH:
                        at = image * from_image + channel * from_channel + (kd * KH + kh) * KW * from_tap
                        rows[count] = at + (od * OH + oh) * OW
                        count += 1
            if add_in_lanes(into, spare, cols, rows, count, KW, from_tap, dw, pw, OW, infinity):
                continue
        total = room_for_sums(into, infinity)
        fill(total, 0)
        for kd in range(KD):
            od, between = divmod(d + pd - kd * dd, sd)
            if between != 0 or not 0 <= od < OD:
                continue
            for kh in range(KH):
                oh, between = divmod(h + ph - kh * dh, sh)
                if between != 0 or not 0 <= oh < OH:
                    continue
                for kw in range(KW):
                    begin, end = covered(kw, sw, pw, dw, W, OW)
                    if end <= begin:
                        continue
                    w = begin * sw - pw + kw * dw
                    tap = (kd * KH + kh) * KW + kw
                    for c in range(inner):
                        image, channel = divmod(plane * inner + c, channels)
                        at = image * from_image + channel * from_channel + tap * from_tap
                        column = onward(cols, at + ((od * OH + oh) * OW + begin) * from_position)
                        add_cells(
                            onward(total, w * inner + c), sw * inner, column, from_position, end - begin, infinity
                        )
        if infinity is not None:
            for i in range(len(into)):
                into[i] = narrowed(total[i], infinity)
