# cython: freethreading_compatible=True
"""Compiled loops over columns: gather them, add them up, take their maximum. Serial, and without the GIL.

`geometry` is `Window.geometry`: size, kernel, stride, before, dilation and out, each for depth, height, width.
Arrays come as [group, lane, depth, height, width] and columns as [group, lane, tap, depth, height, width]: a row
of windows of all lanes is one tile, so that channels or images that lie inside the rows are moved row by row.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef fused bits:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused addable:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double

ctypedef fused ordered:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double

ctypedef fused floating:
    float
    double

ctypedef fused offset:
    uint8_t
    uint16_t
    uint32_t


cdef struct Axis:
    Py_ssize_t size
    Py_ssize_t kernel
    Py_ssize_t stride
    Py_ssize_t before
    Py_ssize_t dilation
    Py_ssize_t out


cdef inline Axis axis_of(const int64_t[::1] geometry, int i) noexcept nogil:
    return Axis(geometry[i], geometry[3 + i], geometry[6 + i], geometry[9 + i], geometry[12 + i], geometry[15 + i])


cdef inline Py_ssize_t cell_of(Axis a, Py_ssize_t position, Py_ssize_t tap) noexcept nogil:
    return position * a.stride - a.before + tap * a.dilation


cdef inline Py_ssize_t positions_below(Axis a, Py_ssize_t tap, Py_ssize_t cell) noexcept nogil:
    """How many windows have this tap on a cell before `cell`."""
    cdef Py_ssize_t reach = cell - cell_of(a, 0, tap)
    return 0 if reach <= 0 else min((reach + a.stride - 1) // a.stride, a.out)


cdef inline Py_ssize_t position_on(Axis a, Py_ssize_t cell, Py_ssize_t tap) noexcept nogil:
    """The window that has this tap on a cell, or -1."""
    cdef Py_ssize_t start = cell - cell_of(a, 0, tap)
    if start < 0 or start % a.stride != 0 or start // a.stride >= a.out:
        return -1
    return start // a.stride


cdef inline bint padding_alone(Axis a, Py_ssize_t position) noexcept nogil:
    """Whether no tap of a window is on a real cell of this axis."""
    cdef Py_ssize_t start = cell_of(a, position, 0)
    cdef Py_ssize_t tap = 0 if start >= 0 else (-start + a.dilation - 1) // a.dilation
    return tap >= a.kernel or start + tap * a.dilation >= a.size


cdef inline void fill_tile(
    bits value, bits* to, Py_ssize_t lanes, Py_ssize_t to_lane, Py_ssize_t count, Py_ssize_t to_step
) noexcept nogil:
    cdef Py_ssize_t lane, i
    for lane in range(lanes):
        for i in range(count):
            to[lane * to_lane + i * to_step] = value


cdef inline void copy_tile(
    const bits* at, Py_ssize_t at_lane, Py_ssize_t at_step,
    bits* to, Py_ssize_t to_lane, Py_ssize_t to_step,
    Py_ssize_t lanes, Py_ssize_t count,
) noexcept nogil:
    cdef Py_ssize_t lane, i
    if lanes > 1 and at_lane == 1 and to_lane == 1:
        if at_step == lanes and to_step == lanes:
            memcpy(to, at, count * lanes * sizeof(bits))
        else:
            for i in range(count):
                memcpy(to + i * to_step, at + i * at_step, lanes * sizeof(bits))
    elif at_step == 1 and to_step == 1:
        for lane in range(lanes):
            memcpy(to + lane * to_lane, at + lane * at_lane, count * sizeof(bits))
    elif at_step == 2 and to_step == 1:
        for lane in range(lanes):
            for i in range(count):
                to[lane * to_lane + i] = at[lane * at_lane + 2 * i]
    elif to_lane == 1:
        for i in range(count):
            for lane in range(lanes):
                to[lane + i * to_step] = at[lane * at_lane + i * at_step]
    else:
        for lane in range(lanes):
            for i in range(count):
                to[lane * to_lane + i * to_step] = at[lane * at_lane + i * at_step]


cdef inline void add_tile(
    const addable* at, Py_ssize_t at_lane, Py_ssize_t at_step,
    addable* to, Py_ssize_t to_lane, Py_ssize_t to_step,
    Py_ssize_t lanes, Py_ssize_t count,
) noexcept nogil:
    cdef Py_ssize_t lane, i
    if at_step == 1 and to_step == 1:
        for lane in range(lanes):
            for i in range(count):
                to[lane * to_lane + i] += at[lane * at_lane + i]
    elif to_lane == 1:
        for i in range(count):
            for lane in range(lanes):
                to[lane + i * to_step] += at[lane * at_lane + i * at_step]
    else:
        for lane in range(lanes):
            for i in range(count):
                to[lane * to_lane + i * to_step] += at[lane * at_lane + i * at_step]


def gather(
    const bits[:, :, :, :, :] x,
    const int64_t[::1] geometry,
    bits fill_value,
    bits[:, :, :, :, :, :] cols,
    Py_ssize_t first_tap=0,
):
    """Fill columns with the cells under each tap from `first_tap` on, `fill_value` in the padding."""
    cdef Axis depth = axis_of(geometry, 0), height = axis_of(geometry, 1), width = axis_of(geometry, 2)
    cdef Py_ssize_t groups = cols.shape[0], lanes = cols.shape[1], taps = cols.shape[2]
    cdef Py_ssize_t x_lane = x.strides[1] // sizeof(bits), x_step = width.stride * (x.strides[4] // sizeof(bits))
    cdef Py_ssize_t to_lane = cols.strides[1] // sizeof(bits), to_step = cols.strides[5] // sizeof(bits)
    cdef Py_ssize_t group, i, tap, kd, kh, kw, od, oh, d, h, first, last
    cdef bits* row
    if cols.size == 0:
        return
    with nogil:
        for group in range(groups):
            for i in range(taps):
                tap = first_tap + i
                kw = tap % width.kernel
                kh = tap // width.kernel % height.kernel
                kd = tap // (width.kernel * height.kernel)
                first = positions_below(width, kw, 0)
                last = max(positions_below(width, kw, width.size), first)
                for od in range(depth.out):
                    d = cell_of(depth, od, kd)
                    for oh in range(height.out):
                        h = cell_of(height, oh, kh)
                        row = &cols[group, 0, i, od, oh, 0]
                        if first == last or not (0 <= d < depth.size and 0 <= h < height.size):
                            fill_tile(fill_value, row, lanes, to_lane, width.out, to_step)
                            continue
                        fill_tile(fill_value, row, lanes, to_lane, first, to_step)
                        copy_tile(
                            &x[group, 0, d, h, cell_of(width, first, kw)], x_lane, x_step,
                            row + first * to_step, to_lane, to_step, lanes, last - first,
                        )
                        fill_tile(fill_value, row + last * to_step, lanes, to_lane, width.out - last, to_step)


def add_up(const addable[:, :, :, :, :, :] cols, const int64_t[::1] geometry, addable[:, :, :, :, :] x):
    """The adjoint of `gather`: the sum over the taps of what they held of each cell, in order of the taps.

    Each row of `x` is made at once, from the columns of all taps, and so is written to memory but once.
    """
    cdef Axis depth = axis_of(geometry, 0), height = axis_of(geometry, 1), width = axis_of(geometry, 2)
    cdef Py_ssize_t lanes = x.shape[1]
    cdef Py_ssize_t x_lane = x.strides[1] // sizeof(addable), x_step = x.strides[4] // sizeof(addable)
    cdef Py_ssize_t at_lane = cols.strides[1] // sizeof(addable), at_step = cols.strides[5] // sizeof(addable)
    cdef Py_ssize_t group, lane, i, d, h, kd, kh, kw, od, oh, first, last
    cdef addable* row
    if x.size == 0:
        return
    with nogil:
        for group in range(x.shape[0]):
            for d in range(depth.size):
                for h in range(height.size):
                    row = &x[group, 0, d, h, 0]
                    for lane in range(lanes):
                        for i in range(width.size):
                            row[lane * x_lane + i * x_step] = 0
                    for kd in range(depth.kernel):
                        od = position_on(depth, d, kd)
                        if od < 0:
                            continue
                        for kh in range(height.kernel):
                            oh = position_on(height, h, kh)
                            if oh < 0:
                                continue
                            for kw in range(width.kernel):
                                first = positions_below(width, kw, 0)
                                last = positions_below(width, kw, width.size)
                                if first >= last:
                                    continue
                                add_tile(
                                    &cols[group, 0, (kd * height.kernel + kh) * width.kernel + kw, od, oh, first],
                                    at_lane, at_step,
                                    row + cell_of(width, first, kw) * x_step, x_lane, width.stride * x_step,
                                    lanes, last - first,
                                )


cdef inline bint wins(ordered value, ordered best, bint minimum) noexcept nogil:
    """As `fastpool._rules.wins`, or `wins_minimum`; the integers have no NaN."""
    if ordered is float or ordered is double:
        return (not (value >= best if minimum else value <= best)) & (best == best)
    else:
        return value < best if minimum else value > best


cdef inline void take(
    const ordered* cols, ordered* best, Py_ssize_t taps, Py_ssize_t cells, bint minimum
) noexcept nogil:
    cdef Py_ssize_t tap, i
    cdef ordered value, held
    for tap in range(taps):
        for i in range(cells):
            value, held = cols[tap * cells + i], best[i]
            best[i] = value if wins(value, held, minimum) else held


cdef inline void take_with_offset(
    const ordered* cols, ordered* best, offset* winner, Py_ssize_t taps, Py_ssize_t cells, Py_ssize_t first_tap,
    bint minimum,
) noexcept nogil:
    cdef Py_ssize_t tap, i
    cdef ordered value, held
    cdef offset name, kept
    cdef bint taken
    # No branches, and nothing loaded after the first store: so the loop vectorises.
    for tap in range(taps):
        name = <offset>(first_tap + tap)
        for i in range(cells):
            value, held, kept = cols[tap * cells + i], best[i], winner[i]
            taken = wins(value, held, minimum)
            best[i] = value if taken else held
            winner[i] = name if taken else kept


def take_best(const ordered[:, ::1] cols, ordered[::1] best, bint minimum):
    """Let the taps of columns (taps, cells) take over the best of each cell: the maximum or the minimum."""
    if cols.size == 0:
        return
    with nogil:  # the two loops are compiled apart
        if minimum:
            take(&cols[0, 0], &best[0], cols.shape[0], cols.shape[1], True)
        else:
            take(&cols[0, 0], &best[0], cols.shape[0], cols.shape[1], False)


def take_best_and_offset(
    const ordered[:, ::1] cols, Py_ssize_t first_tap, ordered[::1] best, offset[::1] winner, bint minimum
):
    """As `take_best`, with the offset of the winner."""
    if cols.size == 0:
        return
    with nogil:
        if minimum:
            take_with_offset(&cols[0, 0], &best[0], &winner[0], cols.shape[0], cols.shape[1], first_tap, True)
        else:
            take_with_offset(&cols[0, 0], &best[0], &winner[0], cols.shape[0], cols.shape[1], first_tap, False)


def half_keys(int16_t[::1] a, int infinity, int nan_key):
    """Bits of two-byte floats to keys in their order, in place; as `fastpool._rules.half_key`.

    The key of NaN is the largest, 0x7FFF, so that it wins a maximum, or the smallest, -0x8000, for a minimum.
    """
    cdef Py_ssize_t i
    cdef int b
    with nogil:
        for i in range(a.shape[0]):
            b = a[i]
            if (b & 0x7FFF) > infinity:
                b = nan_key
            else:
                b ^= (b >> 15) & 0x7FFF
                b += b == -1
            a[i] = <int16_t>b


def half_bits(int16_t[::1] a):
    """Keys back to bits, in place; as `fastpool._rules.half_bits`."""
    cdef Py_ssize_t i
    cdef int b
    with nogil:
        for i in range(a.shape[0]):
            b = a[i]
            a[i] = <int16_t>(b ^ ((b >> 15) & 0x7FFF))


ctypedef fused index:
    uint8_t
    uint16_t
    uint32_t
    int64_t


cdef inline size_t read_once(const index* at) noexcept nogil:
    """An index that is checked and then used: without volatile the compiler may read it from memory for each."""
    return <size_t>(<const volatile index*>at)[0]


cdef inline size_t cells_from_first(
    size_t tap, const int64_t[::1] table, Axis height, Axis width, size_t slice_step, size_t row_step
) noexcept nogil:
    """How far a tap is from the first of its window: from the table, or calculated of a tap that it does not hold.

    Unsigned, because an offset of no tap may be far beyond any cell, and signed overflow is undefined.
    """
    if tap < <size_t>table.shape[0]:
        return table[tap]
    return (
        tap // (<size_t>width.kernel * <size_t>height.kernel) * slice_step
        + tap // <size_t>width.kernel % <size_t>height.kernel * row_step
        + tap % <size_t>width.kernel * <size_t>width.dilation
    )


def scatter(
    const floating[:, :, :, :, ::1] dy,
    const offset[:, :, :, :, ::1] argmax,
    const int64_t[::1] geometry,
    const int64_t[::1] table,
    floating[:, :, ::1] dx,
    Py_ssize_t first_cell=0,
):
    """Add gradients to the cells that argmax names, in row-major order of the windows.

    `dx` is (outer, cells, inner), the cells of each plane from `first_cell` on; gradients of other cells are skipped.
    `table` holds how many cells each tap is after the first, or nothing: then it is calculated. Windows of padding alone
    send nothing. Another thread may have changed the offsets since they were checked: one that names no tap sends
    nothing, or to some cell of `dx`.
    """
    cdef Axis depth = axis_of(geometry, 0), height = axis_of(geometry, 1), width = axis_of(geometry, 2)
    cdef Py_ssize_t outer, od, oh, ow, i, row, start
    cdef Py_ssize_t inner = dy.shape[4]
    cdef size_t row_step = <size_t>height.dilation * <size_t>width.size
    cdef size_t slice_step = <size_t>depth.dilation * <size_t>height.size * <size_t>width.size
    cdef size_t tap, cell, cells = dx.shape[1]
    with nogil:
        for outer in range(dy.shape[0]):
            for od in range(depth.out):
                if padding_alone(depth, od):
                    continue
                for oh in range(height.out):
                    if padding_alone(height, oh):
                        continue
                    row = (cell_of(depth, od, 0) * height.size + cell_of(height, oh, 0)) * width.size - first_cell
                    for ow in range(width.out):
                        if padding_alone(width, ow):
                            continue
                        start = row + cell_of(width, ow, 0)
                        for i in range(inner):
                            tap = read_once(&argmax[outer, od, oh, ow, i])
                            cell = start + cells_from_first(tap, table, height, width, slice_step, row_step)
                            if cell < cells:
                                dx[outer, cell, i] += dy[outer, od, oh, ow, i]


def put(const bits[:, :, ::1] y, const int64_t[:, :, ::1] indices, bits[:, :, ::1] x):
    """Set the cells (outer, cells, inner) that indices name, in row-major order.

    Indices of cells that are not there, such as -1, are skipped.
    """
    cdef Py_ssize_t outer, position, i
    cdef size_t cell, cells = x.shape[1]
    with nogil:
        for outer in range(y.shape[0]):
            for position in range(y.shape[1]):
                for i in range(y.shape[2]):
                    cell = read_once(&indices[outer, position, i])
                    if cell < cells:
                        x[outer, cell, i] = y[outer, position, i]
