"""im2col and col2im. The columns are flat, with a step each for image, channel, tap and position."""

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.compilation import INLINED, inlined, kernel
from fastpool.backends.numba.lanes import (
    beside,
    evens,
    fence,
    first_of,
    lanes_in,
    load,
    store,
    stream,
    to_line,
    where,
)
from fastpool.backends.numba.pool import fill_lanes
from fastpool.backends.numba.scalars import (
    carve,
    lay_row,
    narrow_row,
    narrow_zipped,
    narrowed,
    onward,
    part,
    positive,
    widened,
)
from fastpool.backends.numba.scratch import col2im_scratch, im2col_scratch


@inlined
def copy_run(to, cells, count, streams):
    """Copy `count` numbers in whole lines; what lies at either end of those by lanes that overlap them, or one by one.

    A line that is streamed must not be touched by any other store.
    """
    first, last = to_line(to, 0), count - lanes_in(to)
    if streams or last < 0:
        first = min(first, count)
        for i in range(first):
            to[i] = cells[i]
        while first <= last:
            stream(to, first, load(cells, first))
            first += lanes_in(to)
        for i in range(first, count):
            to[i] = cells[i]
    else:
        store(to, 0, load(cells, 0))
        while first < last:
            store(to, first, load(cells, first))
            first += lanes_in(to)
        store(to, last, load(cells, last))


@inlined
def lay_cells(cells, x, source, image_step, cell_step, inner, begin, end, rest, around):
    """The cells of a row from `begin` to `end`, each of `inner` images."""
    if cell_step == 1 and inner == 1:
        lay_row(cells, 0, x, source, begin, end, rest, around, None, 0)
    else:
        for image in range(inner):
            to, row = onward(cells, begin * inner + image), onward(x, source + image * image_step + begin * cell_step)
            for w in range(end - begin):
                to[np.uint64(w * inner)] = row[np.uint64(w * cell_step)]


@inlined
def lay_windows(to, cells, count, step, inner):
    """One cell of each of `count` windows, `step` cells apart."""
    lanes = lanes_in(to)
    if step == 1:
        for i in range(0, count * inner, positive(lanes)):
            store(to, i, load(cells, i))
    elif step == 2 and inner == 1:
        for i in range(0, count, positive(lanes)):
            store(to, i, evens(load(cells, 2 * i), load(cells, 2 * i + lanes)))
    elif inner == 1:
        for i in range(count):
            to[i] = cells[np.uint64(i * step)]
    else:
        for window in range(count):
            for i in range(0, inner, positive(lanes)):
                store(to, window * inner + i, load(cells, window * step * inner + i))


@kernel
def im2col(x, cols, fill_value, geometry, x_steps, cols_steps, channels, block, streams, scratch, start, stop):
    """Units are channels of blocks of windows of one image, or of some or all where images lie inside the columns.

    A block is so many rows and columns, and so many taps down and along them at once; where it is not of all images, it
    is of one window. Its cells are laid out with their padding, if they do not lie so in x; then, for each tap along a
    row, one cell of every window, side by side. There the column of each tap is one run of numbers, some rows behind
    that of the tap above it.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    image_step, channel_step, cell_step = x_steps
    into_image, into_channel, into_tap, inner = cols_steps
    block_rows, block_columns, taps_down, taps_along, most_images = block
    image_blocks = -(-inner // most_images)
    row_blocks, column_blocks = -(-OH // block_rows), -(-OW // block_columns)
    lanes, below, beyond = lanes_in(x), (taps_down - 1) * dh // sh, (taps_along - 1) * dw
    cells_size, laid_size, _ = im2col_scratch(geometry, block, x.itemsize)
    room = carve(scratch, 0, cells_size + taps_along * laid_size, x)
    around = beside(load(room, 0), fill_value)
    for unit in range(start, stop):
        laid = part(room, cells_size, taps_along * laid_size)
        rest, channel = divmod(unit, channels)
        rest, column_block = divmod(rest, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        rest, od = divmod(rest, OD)
        image = rest * most_images
        images = min(most_images, inner - rest % image_blocks * most_images)
        oh, ow = row_block * block_rows, column_block * block_columns
        rows, columns = min(block_rows, OH - oh), min(block_columns, OW - ow)
        from_channel = image * image_step + channel * channel_step
        into_block = image * into_image + channel * into_channel + ((od * OH + oh) * OW + ow) * inner
        for first_tap in range(0, KD * KH * KW, positive(taps_down * taps_along)):
            kd, kh, kw = first_tap // (KH * KW), first_tap // KW % KH, first_tap % KW
            d, left, width = od * sd - pd + kd * dd, ow * sw - pw + kw * dw, (columns - 1) * sw + beyond + 1
            begin, end = max(-left, 0), min(W - left, width)
            rest = first_of(around, (end - begin) % lanes)
            for phase in range(min(sh, (taps_down - 1) * dh + 1)):
                top = oh * sh - ph + kh * dh + phase
                first, last = max(-top + sh - 1, 0) // sh, min((H - top + sh - 1) // sh, rows + below)
                if not 0 <= d < D:
                    first, last = 0, 0
                source, next_row = from_channel + ((d * H + top) * W + left) * cell_step, sh * W * cell_step
                behind = source + (rows + below - 1) * next_row + width + 2 * lanes
                if (
                    begin + first == 0
                    and end == width
                    and last == rows + below
                    and cell_step * inner == 1
                    and behind <= len(x)
                ):
                    cells, pitch = onward(x, source), next_row
                else:
                    cells, pitch = part(room, 0, cells_size), width * images
                    fill_lanes(cells, 0, (rows + below) * pitch, around)
                    for row in range(first, last):
                        to, at = onward(cells, row * pitch), source + row * next_row
                        lay_cells(to, x, at, image_step, cell_step, images, begin, end, rest, around)
                windows, next_along, run, next_run = cells, dw * images, columns * images, pitch
                if taps_down > 1 or sw > 1:
                    windows, next_along, next_run = laid, laid_size, run
                    for along in range(taps_along):
                        for row in range(rows + below):
                            to = onward(laid, along * laid_size + row * run)
                            lay_windows(to, onward(cells, row * pitch + along * dw * images), columns, sw, images)
                for down in range(taps_down):
                    above, other = (down * dh, 0) if sh == 1 else divmod(down * dh, sh)
                    if other == phase:
                        for along in range(taps_along):
                            into = into_block + (first_tap + down * KW + along) * into_tap
                            source, whole = along * next_along + above * next_run, run
                            if next_run == run and columns == OW and images == inner:
                                whole = rows * run
                            for _ in range(0, rows * run, positive(whole)):
                                copy_run(onward(cols, into), onward(windows, source), whole, streams)
                                into, source = into + OW * inner, source + next_run
    if streams:
        fence()


def add_rows(total, to_next, step, cols, from_next, rows, count, inner, infinity):
    """Add rows of columns, so far from one to the next, to sums: `inner` numbers of each of `count` windows.

    The windows' sums are `step` apart. Zeros may be added to what lies behind a row.
    """


@overload(add_rows, jit_options=INLINED)
def _add_rows(total, to_next, step, cols, from_next, rows, count, inner, infinity):
    has_lanes = isinstance(infinity, types.NoneType)

    def add_rows(total, to_next, step, cols, from_next, rows, count, inner, infinity):
        to = source = done = 0
        if has_lanes and step == inner:
            lanes = lanes_in(total)
            numbers, zeros = count * inner, beside(load(total, 0), total.dtype.type(0))
            whole = numbers // lanes * lanes
            rest = first_of(zeros, numbers - whole)
            while done < rows and source + whole + lanes <= len(cols):
                i = 0
                while i < whole:
                    store(total, to + i, load(total, to + i) + load(cols, source + i))
                    i += lanes
                if i < numbers:
                    store(total, to + i, load(total, to + i) + where(rest, load(cols, source + i), zeros))
                to, source, done = to + to_next, source + from_next, done + 1
        length, apart = (count * inner, 0) if step == inner else (inner, step)
        for _ in range(done, rows):
            for at in range(0, count * inner, positive(length)):
                sums, column = onward(total, to + at // inner * apart), onward(cols, source + at)
                for i in range(length):
                    sums[i] += widened(column[i], infinity)
            to, source = to + to_next, source + from_next

    return add_rows


@inlined
def spread_cells(dx, step, cells, cell_step, count, infinity):
    for i in range(count):
        dx[np.uint64(i * step)] = narrowed(cells[np.uint64(i * cell_step)], infinity)


@inlined
def first_at(tap, stride, place):
    """The first window, from the very first on, whose tap lies not before a place; both counted from the padding."""
    return max(place - tap + stride - 1, 0) // stride


@kernel
def col2im(cols, dx, infinity, sums, geometry, x_steps, cols_steps, channels, block, scratch, start, stop):
    """Units are channels of blocks of cells, rows by columns, of one image or more, as in `im2col`.

    A column is a cell of each phase of the stride, so that a row of windows adds to neighbours; or, as strides of many
    cells have it, of one phase. A block that is not of all images is of one cell. The sums stay in the caches while the
    columns of all taps come in, in their order.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    image_step, channel_step, cell_step = x_steps
    from_image, from_channel, from_tap, inner = cols_steps
    block_rows, block_columns, phases, most_images = block
    image_blocks = -(-inner // most_images)
    before, apart = pw // phases, sw // phases
    all_columns = (pw + W - 1) // phases + 1 - before
    row_blocks, column_blocks = -(-H // block_rows), -(-all_columns // block_columns)
    pitch, sums_size, _ = col2im_scratch(block, sums.itemsize)
    total = carve(scratch, 0, sums_size, sums)
    zeros = beside(load(total, 0), sums.dtype.type(0))
    for unit in range(start, stop):
        rest, channel = divmod(unit, channels)
        rest, column_block = divmod(rest, column_blocks)
        rest, row_block = divmod(rest, row_blocks)
        rest, d = divmod(rest, D)
        image = rest * most_images
        images = min(most_images, inner - rest % image_blocks * most_images)
        h0, q0 = row_block * block_rows, before + column_block * block_columns
        h1, q1 = min(h0 + block_rows, H), min(q0 + block_columns, before + all_columns)
        fill_lanes(total, 0, (h1 - h0) * phases * pitch, zeros)
        for kd in range(KD):
            od, between = divmod(d + pd - kd * dd, sd)
            if between != 0 or not 0 <= od < OD:
                continue
            for kh in range(KH):
                oh0, oh1 = first_at(kh * dh, sh, h0 + ph), min(first_at(kh * dh, sh, h1 + ph), OH)
                row = oh0 * sh + kh * dh - ph - h0
                for kw in range(KW):
                    beyond, phase = divmod(kw * dw, phases)
                    ow0, ow1 = first_at(beyond, apart, q0), min(first_at(beyond, apart, q1), OW)
                    if ow0 >= ow1:
                        continue
                    to = (row * phases + phase) * pitch + (ow0 * apart + beyond - q0) * images
                    source = image * from_image + channel * from_channel + ((kd * KH + kh) * KW + kw) * from_tap
                    source += ((od * OH + oh0) * OW + ow0) * inner
                    add_rows(
                        onward(total, to),
                        sh * phases * pitch,
                        apart * images,
                        onward(cols, source),
                        OW * inner,
                        oh1 - oh0,
                        ow1 - ow0,
                        images,
                        infinity,
                    )
        first, last = max(q0 * phases - pw, 0), min(q1 * phases - pw, W)
        first_phase = first + pw - q0 * phases
        plane = image * image_step + channel * channel_step + d * H * W * cell_step
        for h in range(h0, h1):
            to, row = plane + (h * W + first) * cell_step, (h - h0) * phases * pitch
            limit = plane + h1 * W if column_blocks == 1 else to + last - first
            if phases == 1 and cell_step * inner == 1:
                narrow_row(dx, to, limit, onward(total, row), last - first, infinity)
            elif phases == 2 and cell_step * inner == 1:
                one, other = onward(total, row), onward(total, row + pitch)
                if first_phase == 1:
                    one, other = other, onward(one, 1)
                narrow_zipped(dx, to, limit, one, other, last - first, infinity)
            else:
                for w in range(min(phases, last - first)):
                    q, phase = divmod(first_phase + w, phases)
                    for i in range(images):
                        cells = onward(total, row + phase * pitch + q * images + i)
                        spread_cells(
                            onward(dx, to + w * cell_step + i * image_step),
                            phases * cell_step,
                            cells,
                            images,
                            (last - first - w - 1) // phases + 1,
                            infinity,
                        )
