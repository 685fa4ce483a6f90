"""How much scratch each kernel needs. Asked by the plan of a call, and by the kernel when it divides its scratch.

A geometry is `Window.numbers`: size, kernel, stride, padding before, dilation and out, each for depth, height, width.
"""

BYTES = 64  # of a vector, and of a line of the caches
BLOCK = 4096  # elements in the scratch of one block: what stays in the caches closest to the core
MOST_BITS = 5  # taps of a row that are compared one by one where each has a bit


def scratch_bytes(count, itemsize):
    """The bytes of scratch that so many elements take: whole lines of the caches."""
    return (count * itemsize + BYTES - 1) // BYTES * BYTES


def windows_at_edges(start, out, kernel, stride, dilation, size):
    """The windows along an axis, the first at `start`, that leave it: those up to `begin`, and from `end` on."""
    begin = min((max(-start, 0) + stride - 1) // stride, out)
    return begin, max(min((size - (kernel - 1) * dilation - start + stride - 1) // stride, out), begin)


def compares_in_place(geometry, inner, block):
    """Whether windows lie as their cells do.

    They are compared there, whatever of a window hangs over an end of a row.
    """
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    same_pitch = OW * sw == W and block[1] == OW and (sw == 1 or (sw == 2 and inner == 1))
    return same_pitch and 1 < KW <= MOST_BITS and (KW > 2 or pw > 0)


def max_pool_scratch(geometry, inner, block, itemsize, argmax_itemsize):
    """Elements for the maxima along rows, of a spare row, and of the mask of taps; and the bytes of all."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (block_rows, block_columns), lanes, reach_w = block, BYTES // itemsize, (KW - 1) * dw
    # For each slice the cells under a block, which the maxima along its rows then take the place of.
    most_rows = (block_rows - 1) * sh + (KH - 1) * dh + 1
    most_columns = max(block_columns + reach_w // sw, (W + sw - 1) // sw if block_columns == OW else 0)
    along = min(KD, D) * (most_rows * most_columns * sw * inner + lanes) + reach_w * inner + 2 * sw * lanes
    spare = 64 * lanes if sw > 3 and inner == 1 else 0
    mask = most_rows * OW * inner + BYTES if compares_in_place(geometry, inner, block) else 0
    values = along + spare + lanes
    nbytes = scratch_bytes(values, itemsize) + scratch_bytes(values, argmax_itemsize) + scratch_bytes(mask, 1)
    return along, spare, mask, nbytes


def tall_scratch(geometry, inner, block, itemsize, argmax_itemsize):
    """Elements of a row of cells, from the start of one kept row to the next, and of all; and the bytes of these."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    block_columns, lanes, reach = block[1], BYTES // itemsize, (KW - 1) * dw
    # Maxima are taken at every cell of a row, also of windows that begin too late to be whole.
    row = (block_columns * sw + 2 * reach + sw) * inner + (2 * sw + 2) * lanes
    step = block_columns * inner + lanes
    values = row + 64 * lanes + (KH + 1) * step
    return row, step, values, scratch_bytes(values, itemsize) + scratch_bytes(values, argmax_itemsize)


def direct_scratch(itemsize, argmax_itemsize):
    lanes = BYTES // itemsize
    return scratch_bytes(lanes, itemsize), scratch_bytes(lanes, itemsize) + scratch_bytes(lanes, argmax_itemsize)


def by_taps_scratch(geometry, inner, block, itemsize, argmax_itemsize):
    """Elements of a slice of gradients, of all slices, of the sums of a phase, and of taps; and the bytes of all."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (block_rows, block_columns, alike), lanes = block, BYTES // itemsize
    back_h, back_w, most_slices = (KH - 1) * dh // sh, (KW - 1) * dw // sw, (KD - 1) * dd // sd + 1
    laid_pitch, taps = block_columns + back_w, KD * KH * KW * lanes
    slice_size = (block_rows + back_h) * laid_pitch * inner
    phase_size = ((block_rows - 1) * max(laid_pitch, OW if alike else 0) + laid_pitch) * inner + 2 * lanes
    slopes = most_slices * slice_size + back_w * inner + 4 * lanes
    nbytes = scratch_bytes(slopes + sh * sw * phase_size + 2 * lanes, itemsize)
    nbytes += scratch_bytes(slopes + taps, argmax_itemsize) + scratch_bytes(taps, 8) + scratch_bytes(sh * sw + 1, 8)
    return slice_size, slopes, phase_size, taps, nbytes


def elements_apart(axis, geometry, inner):
    """How many elements of an argmax lie from one position along an axis to the next."""
    OH, OW = geometry[16], geometry[17]
    return inner * (OH * OW if axis == 0 else (OW if axis == 1 else 1))


def edges_along(axis, geometry):
    """The windows along an axis that leave the input: those before the first number, and from the second on."""
    size, kernel, stride = geometry[axis], geometry[3 + axis], geometry[6 + axis]
    before, dilation, out = geometry[9 + axis], geometry[12 + axis], geometry[15 + axis]
    return windows_at_edges(-before, out, kernel, stride, dilation, size)


def asks_each_position(axis, geometry, inner, period):
    """Few positions, or such as have many elements each, are looked at one by one; else a pattern of bounds is."""
    (begin, end), out = edges_along(axis, geometry), geometry[15 + axis]
    return 8 * (begin + out - end) < out or elements_apart(axis, geometry, inner) >= min(period, 32)


def check_scratch(geometry, inner, argmax_itemsize):
    """Elements of a pattern of bounds, and the bytes of two of them if any axis is looked at by a pattern.

    They are float32 where this names each offset exactly.
    """
    OD, OH, OW = geometry[15:]
    period = OD * OH * OW * inner if OD * OH * OW * inner <= BLOCK else OW * inner
    patterns = 0
    for axis in range(3 if period <= 8 * BLOCK else 0):
        patterns = patterns if asks_each_position(axis, geometry, inner, period) else 2
    return period, patterns * scratch_bytes(period, 4 if argmax_itemsize <= 2 else 8)


def backward_scratch(tile, argmax_itemsize, sums_itemsize):
    """Bytes of the table of offsets, and of all with the sums of a tile, where these are not made in dx."""
    rows, columns, planes, channels = tile
    table = 256 * 8 if argmax_itemsize == 1 else 0
    return table, table + scratch_bytes(planes * rows * columns * channels, sums_itemsize)


def im2col_scratch(geometry, block, itemsize):
    """Elements for the cells under a block, and for a row of taps of all its windows; and the bytes of all."""
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = geometry
    (block_rows, block_columns, taps_down, taps_along, images), lanes = block, BYTES // itemsize
    below, beyond = (taps_down - 1) * dh // sh, (taps_along - 1) * dw
    cells_size = (block_rows + below) * ((block_columns - 1) * sw + beyond + 1) * images + 6 * lanes
    laid_size = (block_rows + below) * block_columns * images + lanes
    return cells_size, laid_size, scratch_bytes(cells_size + taps_along * laid_size, itemsize)


def col2im_scratch(block, itemsize):
    """Elements of the sums of a row of cells of one phase, and of all; and the bytes of these."""
    (block_rows, block_columns, phases, images), lanes = block, BYTES // itemsize
    pitch = block_columns * images + lanes  # zeros added behind a row are no part of the next: that would have to wait
    sums = block_rows * phases * pitch + 2 * lanes
    return pitch, sums, scratch_bytes(sums, itemsize)
