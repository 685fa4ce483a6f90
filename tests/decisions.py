"""What array libraries decide differently in pools and filters: a question for each decision, answered by results.

Each function asks a `Library` and returns a word of the table in docs/semantics.md. What a library has no function
for raises `Missing`.
"""

from collections.abc import Callable

import numpy as np


class Missing(Exception):
    """The library has no such function or option."""


class NoDefault(Exception):
    """The caller must decide."""


class Library:
    """Pools of one library, on float32 arrays of shape (N, C, H, W) with the same window along both axes."""

    def max_pool(self, x, kernel, stride, padding, dilation=1, ceil_mode=False):
        raise Missing

    def max_pool_same(self, x, kernel):
        """With as many windows as elements; a pair of arrays where there are two kinds of it."""
        raise Missing

    def padding_alone(self):
        """The maximum of a window that covers no element."""
        return self.max_pool(np.zeros((1, 1, 1, 1), np.float32), 2, 1, 1, dilation=2)

    def indices(self, x, kernel, stride, padding):
        raise Missing

    def gradient(self, x, kernel):
        """Of the sum of the maxima of nonoverlapping windows."""
        raise Missing

    def average(self, x, kernel, stride, padding, ceil_mode=False):
        raise Missing

    def average_same(self, x, kernel):
        raise Missing

    def adaptive_average(self, x, size):
        raise Missing

    def dilation(self, x, footprint):
        """Grey dilation of an image (H, W)."""
        raise Missing


def refused(call, *arguments, **keywords):
    """Whether a library raises an error."""
    try:
        call(*arguments, **keywords)
    except (Missing, NoDefault):
        raise
    except Exception:
        return True
    return False


def image(*rows):
    """One image of one channel."""
    return np.array([[rows]], np.float32)


def column(*values):
    """An image whose columns are all these values."""
    return np.broadcast_to(np.array(values, np.float32)[:, None], (1, 1, len(values), len(values))).copy()


def _over_the_border(pool, same, values):
    """The maximum or average of the first window, its side and its padding: as much padding as the library takes."""
    x = column(*values)
    for kernel, padding in ((3, 2), (2, 1), (3, 1)):
        try:
            if not refused(pool, x, kernel, 1, padding):
                return kernel, padding, float(pool(x, kernel, 1, padding)[0, 0, 0, 0])
        except Missing:
            break
    y = same(x, 3)
    return 3, 1, float((y[0] if isinstance(y, tuple) else y)[0, 0, 0, 0])


def padding_at_most(library):
    x = np.zeros((1, 1, 9, 9), np.float32)
    if refused(library.max_pool, x, 4, 1, 3):
        return "half a window"
    return "under a window" if refused(library.max_pool, x, 4, 1, 4) else "any"


def padding_of_maxima(library):
    values = (-5, -3, -1, -2)
    kernel, padding, first = _over_the_border(library.max_pool, library.max_pool_same, values)
    inside = values[: kernel - padding]
    words = {
        "never wins": max(inside),
        "zeros": 0,
        "reflected": max(*values[:padding], *inside),
        "mirrored": max(*values[1 : padding + 1], *inside),
    }
    return next(word for word, value in words.items() if first == value)


def _named(value):
    return {-np.inf: "-inf", float(np.finfo(np.float32).min): "lowest finite", 0.0: "0"}[float(value)]


def window_of_padding(library):
    return _named(np.ravel(library.padding_alone())[0])


def window_of_minus_infinity(library):
    return _named(library.max_pool(np.full((1, 1, 2, 2), -np.inf, np.float32), 2, 2, 0)[0, 0, 0, 0])


def nan_in_a_window(library):
    """Of windows with one NaN each, at every position, among ones."""
    x = np.ones((1, 1, 2, 8), np.float32)
    for position in range(4):
        x[0, 0, position // 2, 2 * position + position % 2] = np.nan
    found = np.isnan(library.max_pool(x, 2, 2, 0)[0, 0, 0])
    return "NaN" if found.all() else "ignored" if not found.any() else "by position"


def gradient_of_ties(library):
    dx = library.gradient(np.zeros((1, 1, 2, 2), np.float32), 2).ravel().tolist()
    words = {(1, 0, 0, 0): "the first", (0, 0, 0, 1): "the last", (1, 1, 1, 1): "all", (0.25,) * 4: "shared"}
    return words[tuple(dx)]


def indices_count_in(library):
    """The maximum is in the second image, the second channel, and row 3 and column 2 of 4x4."""
    x = np.zeros((2, 2, 4, 4), np.float32)
    x[1, 1, 3, 2] = 1
    index = int(library.indices(x, 2, 2, 0)[1, 1, 1, 1])
    return {2: "window", 14: "plane", 30: "image, CHW", 29: "image, HWC", 62: "array, NCHW"}[index]


def indices_count_padding(library):
    """The maximum is in row 1 of the first window of 3x3, which begins with a row and a column of padding."""
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, 1, 0] = 1
    return {4: "no", 13: "yes", 7: "yes"}[int(library.indices(x, 3, 1, 1)[0, 0, 0, 0])]


def index_of_several_nan(library):
    index = int(library.indices(np.full((1, 1, 2, 2), np.nan, np.float32), 2, 2, 0)[0, 0, 0, 0])
    return {0: "the first's", 3: "the last's"}[index]


def odd_element_of_same(library):
    """Of windows of two elements as many as elements: which neighbour the windows have."""
    found = library.max_pool_same(image([1, 2], [3, 4]), 2)
    words = {4.0: "end", 1.0: "start"}
    return " or ".join(words[float(y[0, 0, 0, 0])] for y in (found if isinstance(found, tuple) else (found,)))


def dilation(library):
    try:
        y = library.max_pool(column(1, 2, 3), 2, 1, 0, dilation=2)
    except Missing:
        return "no"
    assert y.shape == (1, 1, 1, 1)
    return "yes"


def last_window_in_the_padding(library):
    """Of 2x2 windows at a stride of 2 in 5 elements padded by 1, the fourth begins in the padding at the end."""
    windows = library.max_pool(np.zeros((1, 1, 5, 5), np.float32), 2, 2, 1, ceil_mode=True).shape[-1]
    return {3: "dropped", 4: "kept"}[windows]


def padding_of_averages(library):
    values = (8, 2, 6, 4)
    kernel, padding, first = _over_the_border(library.average, library.average_same, values)
    inside = values[: kernel - padding]
    words = {
        "left out": np.mean(inside),
        "counted": sum(inside) * len(inside) / kernel**2,
        "reflected": np.mean((*values[:padding], *inside)),
        "mirrored": np.mean((*values[1 : padding + 1], *inside)),
    }
    return next(word for word, value in words.items() if np.isclose(first, value))


def average_past_the_end(library):
    """The second window of a row of three ones holds one of two elements; past it there is not even padding."""
    last = float(library.average(np.ones((1, 1, 3, 3), np.float32), 2, 2, 0, ceil_mode=True)[0, 0, 0, 1])
    return {1.0: "left out", 0.5: "counted"}[last]


def adaptive_windows(library):
    """Of three windows of five elements: those from floor(i n / o) up to ceil((i + 1) n / o) have 2, 3 and 2."""
    y = library.adaptive_average(column(0, 1, 2, 3, 4), 3)[0, 0, :, 0]
    return "shared ends" if np.allclose(y, (0.5, 2, 3.5)) else "other"


def footprint_of_a_dilation(library):
    """The footprint has the element and its left neighbour."""
    x = np.zeros((3, 3), np.float32)
    x[1, 1] = 1
    y = library.dilation(x, np.array([[1, 1, 0]], np.uint8))[1].tolist()
    return {(1, 1, 0): "reflected", (0, 1, 1): "as it is"}[tuple(y)]


def middle_of_an_even_side(library):
    """A footprint of two elements has its middle at one of them."""
    x = np.array([[0, 1, 0, 0]], np.float32)
    y = library.dilation(x, np.array([[1, 1]], np.uint8))[0].tolist()
    return {(1, 1, 0, 0): "left", (0, 1, 1, 0): "right"}[tuple(y)]


DECISIONS: dict[str, Callable[[Library], str]] = {
    "padding at most": padding_at_most,
    "padding of a maximum": padding_of_maxima,
    "window of padding alone": window_of_padding,
    "window of -inf": window_of_minus_infinity,
    "NaN in a window": nan_in_a_window,
    "gradient of equal maxima goes to": gradient_of_ties,
    "indices count in the": indices_count_in,
    "indices count padding": indices_count_padding,
    "of several NaN the index is": index_of_several_nan,
    'odd element of "same" at the': odd_element_of_same,
    "dilated windows": dilation,
    "`ceil_mode`: a last window in the padding": last_window_in_the_padding,
    "average: padding is": padding_of_averages,
    "average: past the padding in `ceil_mode`": average_past_the_end,
    "adaptive windows": adaptive_windows,
    "footprint of a dilation": footprint_of_a_dilation,
    "a dilation by 1x2 grows to the": middle_of_an_even_side,
}


def answers(library):
    """The word for each decision."""
    found = {}
    for name, ask in DECISIONS.items():
        try:
            found[name] = ask(library)
        except Missing:
            found[name] = "—"
        except NoDefault:
            found[name] = "no default"
    return found
