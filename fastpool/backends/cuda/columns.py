"""im2col, col2im and copies of any strides. The columns are flat, with a step for image, channel, tap and position."""

from __future__ import annotations

from fastpool.backends.cuda.compilation import cuda, inlined
from fastpool.backends.cuda.pool import inside, split, unravel
from fastpool.backends.cuda.vectors import load, splat_for, store


@inlined
def window_at(reach, stride, out):
    """The window that begins at `reach` of the padded input, and whether there is one."""
    window = reach // stride
    return window, (reach >= 0) & (window * stride == reach) & (window < out)


def im2col(geometry, images_last):
    """A thread copies the taps of one window after the other. Neighbouring threads write neighbouring elements."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry

    def im2col(x, cols, fill_value, sizes, channels, x_steps, cols_steps, divisors, items):
        index = type(items)
        D, H, W, OD, OH, OW = sizes
        x_image_step, x_channel_step, x_cell_step = x_steps
        cols_image_step, cols_channel_step, cols_tap_step, cols_position_step = cols_steps
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            if images_last:
                channel, od, oh, ow, image, position = unravel(item, divisors)
                position = index(position - channel * (OD * OH * OW))
            else:
                outer, od, oh, ow, _, position = unravel(item, divisors)
                image, channel = split(outer, channels)
                position = index(position - outer * (OD * OH * OW))
            plane = index(image * x_image_step + channel * x_channel_step)
            at = index(image * cols_image_step + channel * cols_channel_step + position * cols_position_step)
            for kd in range(KD):
                d = index(od * sd - pd + kd * dd)
                for kh in range(KH):
                    h = index(oh * sh - ph + kh * dh)
                    real = inside(d, D) & inside(h, H)
                    for kw in range(KW):
                        w = index(ow * sw - pw + kw * dw)
                        if real & inside(w, W):
                            cols[at] = x[index(plane + ((d * H + h) * W + w) * x_cell_step)]
                        else:
                            cols[at] = fill_value
                        at = index(at + cols_tap_step)
            item = index(item + step)

    return im2col


def col2im(geometry):
    """A thread sums one element over the windows that cover it, in the order of the taps."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry

    def col2im(cols, dx, sizes, channels, inner, cols_steps, divisors, items):
        index = type(items)
        _, _, _, OD, OH, OW = sizes
        cols_image_step, cols_channel_step, cols_tap_step, cols_position_step = cols_steps
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            outer, d, h, w, c, _ = unravel(item, divisors)
            image, channel = split(index(outer * inner + c), channels)
            source = index(image * cols_image_step + channel * cols_channel_step)
            total = splat_for(dx, 0)
            for kd in range(KD):
                od, covered_d = window_at(index(d + pd - kd * dd), sd, OD)
                for kh in range(KH):
                    oh, covered_h = window_at(index(h + ph - kh * dh), sh, OH)
                    for kw in range(KW):
                        ow, covered_w = window_at(index(w + pw - kw * dw), sw, OW)
                        if covered_d & covered_h & covered_w:
                            at = index(source + ((kd * KH + kh) * KW + kw) * cols_tap_step)
                            at = index(at + ((od * OH + oh) * OW + ow) * cols_position_step)
                            total = total + load(cols, at, index(0), index(1), 0, 0, 0)
            store(dx, item, index(0), index(1), total)
            item = index(item + step)

    return col2im


def copy(axes):
    """A thread copies one element after the other. Neighbouring threads take neighbours along the last axis."""

    def copy(source, target, source_origin, target_origin, shape, source_steps, target_steps, items):
        index = type(items)
        item, step = index(cuda.grid(1)), index(cuda.gridsize(1))
        while item < items:
            rest, source_at, target_at = item, source_origin, target_origin
            for k in range(axes):
                axis = axes - 1 - k
                rest, at = split(rest, shape[axis])
                source_at = index(source_at + at * source_steps[axis])
                target_at = index(target_at + at * target_steps[axis])
            target[target_at] = source[source_at]
            item = index(item + step)

    return copy
