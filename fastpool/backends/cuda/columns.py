"""im2col, col2im and copies of any strides. The columns are flat, with a step for image, channel, tap and position."""

from __future__ import annotations

from fastpool.backends.cuda.compilation import cuda, inlined
from fastpool.backends.cuda.lanes import lanes_of, load, store
from fastpool.backends.cuda.pool import inside, split


@inlined
def window_at(reach, stride, out):
    """The window that begins so far from a cell, and whether there is one."""
    window = reach // stride
    return window, (reach >= 0) & (window * stride == reach) & (window < out)


def im2col(window, images_last):
    """A thread puts one window after the other tap into its columns; neighbours take neighbouring columns."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = window

    def im2col(x, cols, fill_value, sizes, images, channels, x_steps, cols_steps, units):
        index = type(units)
        D, H, W, OD, OH, OW = sizes
        image_step, channel_step, cell_step = x_steps
        into_image, into_channel, into_tap, into_position = cols_steps
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            if images_last:
                rest, image = split(unit, images)
                channel, position = split(rest, index(OD * OH * OW))
            else:
                rest, position = split(unit, index(OD * OH * OW))
                image, channel = split(rest, channels)
            rest, ow = split(position, OW)
            od, oh = split(rest, OH)
            plane = index(image * image_step + channel * channel_step)
            at = index(image * into_image + channel * into_channel + position * into_position)
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    real = inside(d, D) & inside(h, H)
                    for kw in range(KW):
                        w = index(ow * sw - pw + kw * dw)
                        if real & inside(w, W):
                            cols[at] = x[index(plane + ((d * H + h) * W + w) * cell_step)]
                        else:
                            cols[at] = fill_value
                        at = index(at + into_tap)
            unit = index(unit + step)

    return im2col


def col2im(window):
    """A thread gathers one cell from all taps of all windows that cover it, in order of the taps."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = window

    def col2im(cols, dx, sizes, channels, inner, cols_steps, units):
        index = type(units)
        D, H, W, OD, OH, OW = sizes
        from_image, from_channel, from_tap, from_position = cols_steps
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            rest, within = split(unit, inner)
            rest, w = split(rest, W)
            rest, h = split(rest, H)
            outer, d = split(rest, D)
            image, channel = split(index(outer * inner + within), channels)
            source = index(image * from_image + channel * from_channel)
            total = lanes_of(dx, 0)
            for kd in range(KD):
                od, covered_d = window_at(index(d + pd - kd * dd), sd, OD)
                for kh in range(KH):
                    oh, covered_h = window_at(index(h + ph - kh * dh), sh, OH)
                    for kw in range(KW):
                        ow, covered_w = window_at(index(w + pw - kw * dw), sw, OW)
                        if covered_d & covered_h & covered_w:
                            at = index(source + ((kd * KH + kh) * KW + kw) * from_tap)
                            at = index(at + ((od * OH + oh) * OW + ow) * from_position)
                            total = total + load(cols, at, index(0), index(1), 0, 0, 0)
            store(dx, unit, index(0), index(1), total)
            unit = index(unit + step)

    return col2im


def copy(axes):
    """A thread copies one element between arrays with a step for each axis; neighbours take neighbours of the last."""

    def copy(source, target, origin, into, shape, steps, into_steps, units):
        index = type(units)
        unit, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while unit < units:
            rest, source_at, target_at = unit, origin, into
            for k in range(axes):
                axis = axes - 1 - k
                rest, at = split(rest, shape[axis])
                source_at = index(source_at + at * steps[axis])
                target_at = index(target_at + at * into_steps[axis])
            target[target_at] = source[source_at]
            unit = index(unit + step)

    return copy
