"""The geometry that kernels are given."""

from __future__ import annotations

from fastpool.backends.numba.geometry import Geometry
from fastpool.window import Window


def geometry_of(window: Window, inner: int) -> Geometry:
    return Geometry(*window.geometry, inner)


def stacked(g: Geometry, outer: int) -> tuple[Geometry, int]:
    """The geometry of a call with `outer` planes as one tall plane, if that is possible; and how many planes it has.

    It is where no window leaves its plane above or below and windows go up to its end.
    """
    fits = g.ph == 0 and g.OH * g.sh == g.H and (g.KH - 1) * g.dh < g.sh
    if g.D == g.KD == g.OD == 1 and g.pd == 0 and fits:
        return g._replace(H=outer * g.H, OH=outer * g.OH, sd=1), 1
    return g, outer
