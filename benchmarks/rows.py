"""The rows of the comparison with other libraries: what is timed, and the targets of each row.

To add a row, add a task to its group in `rows`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from math import prod
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy the dtype bfloat16)
import numpy as np

import fastpool
from fastpool.cases import in_layout

Shape = tuple[int, ...]

# How calls and figures are named, in the rows and in the JSON.
FASTPOOL, OUT, BEST = "fastpool", "fastpool out=", "best peer"
AGAIN = " again"  # how the name of a call ends that a row of noise times twice
NOISE = "largest ratio of a call to itself"
OVER = " ÷ "
COPY_SHARE = "share of copy bandwidth"
BEYOND_OUTPUTS = f"memory beyond the outputs{OVER}(8 MB + 2 % of them)"

# Peers that visit every element of every window would take minutes beyond this many.
MOST_VISITS = 10**9


@dataclass(frozen=True)
class Task:
    """One call of one public function of fastpool, its inputs still to be made.

    Attributes
    ----------
    op : the function
    shape : of the forward pass's input, channels first whatever the layout
    window : (kernel_size, stride, padding), the same along every axis; of pools, columns and filters
        Of an adaptive pool, the first is the size of the result.
    disk : whether the windows of a filter are disks; else they are boxes
    pieces, grouping : of maxout, which goes along axis 1
    argmax : whether a pool or maxout also returns the argmax
    dtype, layout
    threads : how many fastpool may use; None for as many as everyone
    """

    op: str
    shape: Shape
    window: tuple[int, int, int] = (1, 1, 0)
    pieces: int = 1
    grouping: str = "strided"
    argmax: bool = False
    disk: bool = False
    dtype: str = "float32"
    layout: str = "channels_first"
    threads: int | None = None

    @property
    def family(self) -> str:
        """The function without its number of axes, as the peers name their methods."""
        return re.sub(r"(?<=pool)\dd", "", self.op)

    @property
    def exact(self) -> bool:
        """Whether all must give the same bits; sums may be rounded differently."""
        return self.family in (
            "max_pool",
            "min_pool",
            "maxout",
            "im2col",
            "maxout_backward",
            "maximum_filter",
            "adaptive_max_pool",
        )

    @property
    def is_adaptive(self) -> bool:
        return self.family.startswith("adaptive")

    @property
    def axes(self) -> int:
        """How many spatial axes there are."""
        return len(self.shape) - 2

    @property
    def channels_last(self) -> bool:
        return self.layout == "channels_last"

    @property
    def out_space(self) -> Shape:
        """The spatial shape of what a pool gives."""
        kernel, stride, padding = self.window
        if self.is_adaptive:
            return self.axes * (kernel,)
        return tuple((s + 2 * padding - kernel) // stride + 1 for s in self.shape[2:])

    @property
    def visits(self) -> int:
        """The number of input elements that all windows visit, counted once per window."""
        return prod(self.shape[:2]) * prod(self.out_space) * int(self.footprint.sum())

    @property
    def footprint(self) -> np.ndarray:
        """The elements of a window."""
        kernel = self.window[0]
        return fastpool.morphology.disk(kernel // 2) if self.disk else np.ones(self.axes * [kernel], bool)

    @property
    def label(self) -> str:
        """Window or grouping, and shape: the name of a row."""
        kernel, stride, padding = self.window
        shape = f"({','.join(map(str, self.shape))})"
        if "maxout" in self.op:
            return f"{self.pieces} pieces {self.grouping} {shape}"
        if "swish" in self.op:
            return f"{self.op} {prod(self.shape):,}"
        if self.family == "maximum_filter":
            return f"{'disk' if self.disk else 'box'} {'x'.join(self.axes * [str(kernel)])} {shape}"
        if self.is_adaptive:
            return (
                f"{self.op.removesuffix('_pool2d').replace('_', ' ')} to {'x'.join(self.axes * [str(kernel)])} {shape}"
            )
        padded = f" p{padding}" if padding else ""
        return f"{'x'.join(self.axes * [str(kernel)])} s{stride}{padded} {shape}"

    def small(self) -> Task:
        """The same task on a shape for which every library takes milliseconds."""
        n, channels, *space = self.shape
        channels = min(channels // self.pieces, 4) * self.pieces
        return replace(self, shape=(min(n, 2), channels, *(min(s, self.window[0] + 12) for s in space)))


@cache
def _values(dtype: str) -> np.ndarray:
    """A million normal values, distinct in float32 and float64, so that no two elements of a window tie."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, 1_000_003, endpoint=True, dtype=dtype)
    distinct = rng.permutation(np.unique(rng.standard_normal(1_200_000, np.float32)))[:1_000_003]
    return distinct.astype(dtype)


def random_array(shape: Shape, dtype: str, start: int = 0) -> np.ndarray:
    """Random values, the same ones for the same `start`."""
    return np.resize(np.roll(_values(dtype), start), shape)


class Problem:
    """A task with its inputs: fastpool's call, and the arrays from which the peers make theirs.

    Attributes
    ----------
    x : the input of the forward pass: a channels-first view of memory in the task's layout
    dy, cols : the inputs of a backward pass and of col2im, likewise
    call : fastpool's call, complete but for `out`
    inputs : its input arrays
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.x = self._made(task.shape)
        self.dy = self.cols = None
        function = getattr(fastpool, task.op)
        keywords: dict[str, Any] = {"data_format": task.layout} if task.channels_last else {}
        if "maxout" in task.op:
            keywords = {"axis": 1, "grouping": task.grouping}
        if task.argmax:
            keywords["return_argmax"] = True

        x, window = self.to_layout(self.x), task.window
        if task.family in ("max_pool", "min_pool", "avg_pool", "im2col"):
            inputs, others = [x], list(window)
        elif task.is_adaptive:
            inputs, others = [x], [window[0]]
        elif task.family == "maxout":
            inputs, others = [x], [self.units]
        elif task.family == "maximum_filter":
            inputs, others = [x], []
            keywords = {"footprint": task.footprint, "axes": (2, 3, 4)[: task.axes]}
        elif task.family == "avg_pool_backward":
            forward = Problem(replace(task, op=task.op.removesuffix("_backward")))
            self.dy = self._made(forward.to_channels_first(forward.call()).shape, start=1)
            inputs, others = [self.to_layout(self.dy)], [x.shape, *window]
        elif task.family in ("max_pool_backward", "maxout_backward"):
            forward = Problem(replace(task, op=task.op.removesuffix("_backward"), argmax=True))
            y, argmax = forward.call()
            self.dy = self._made(forward.to_channels_first(y).shape, start=1)
            inputs = [self.to_layout(self.dy), argmax]
            others = [x.shape] if task.family == "maxout_backward" else [x.shape, *window]
        elif task.family == "col2im":
            kernel = window[0] ** task.axes
            self.cols = random_array((task.shape[0], task.shape[1] * kernel, prod(task.out_space)), task.dtype, 1)
            inputs, others = [self.cols], [x.shape, *window]
        else:
            self.x *= 3  # to meet the flat ends of the activations
            self.dy = self._made(task.shape, start=1)
            inputs, others = [self.dy, x] if "backward" in task.op else [x], []
        self.inputs = inputs
        self.call = partial(function, *inputs, *others, **keywords)

    def _made(self, shape: Shape, start: int = 0) -> np.ndarray:
        return self.to_channels_first(random_array(in_layout(shape, self.task.layout), self.task.dtype, start))

    def to_channels_first(self, a: np.ndarray) -> np.ndarray:
        """A channels-first view of an array in the task's layout."""
        return np.moveaxis(a, -1, 1) if self.task.channels_last else a

    def to_layout(self, a: np.ndarray) -> np.ndarray:
        """A view in the task's layout of a channels-first array."""
        return np.moveaxis(a, 1, -1) if self.task.channels_last else a

    @property
    def units(self) -> int:
        return self.task.shape[1] // self.task.pieces

    @property
    def piece_axis(self) -> int:
        """The axis of the pieces in `x_pieces`."""
        return 1 if self.task.grouping == "strided" else 2

    @cached_property
    def x_pieces(self) -> np.ndarray:
        """The input of maxout, its channel axis split into units and pieces."""
        n, _, *space = self.task.shape
        parts = (self.task.pieces, self.units) if self.task.grouping == "strided" else (self.units, self.task.pieces)
        return self.x.reshape(n, *parts, *space)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The values at indices: offsets in a plane, as PyTorch returns them, or the pieces of maxout."""
        if self.task.family == "maxout":
            axis = self.piece_axis
            pointed = np.take_along_axis(self.x_pieces, np.expand_dims(indices.astype(np.intp), axis), axis)
            return pointed.squeeze(axis)
        planes = self.x.reshape(*self.task.shape[:2], -1)
        return np.take_along_axis(planes, indices.reshape(*planes.shape[:2], -1), 2).reshape(indices.shape)

    def comparable(self, result: Any) -> tuple[np.ndarray, ...]:
        """fastpool's results, channels first; in place of an argmax the values at it."""
        if not self.task.argmax:
            return (result if self.task.family == "im2col" else self.to_channels_first(result),)
        y, argmax = result
        if self.task.family == "max_pool":
            argmax = fastpool.argmax_to_indices(
                argmax, self.inputs[0].shape, *self.task.window, data_format=self.task.layout
            )
        return self.to_channels_first(y), self.at(self.to_channels_first(argmax))


@dataclass(frozen=True)
class Target:
    """A lower or upper limit of a figure, for rows that move `over` to `up_to` bytes."""

    figure: str
    sign: str
    limit: float
    over: float = 0
    up_to: float = float("inf")

    def __str__(self) -> str:
        return f"{self.figure} {'≥' if self.sign == '>=' else '≤'} {self.limit:g}"

    def applies(self, moved: float) -> bool:
        return self.over <= moved <= self.up_to

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.sign == ">=" else value <= self.limit


def faster(limit: float, than: str, **sizes: float) -> Target:
    """At least `limit` times as fast as a peer; as the fastest of its variants where only the peer is named."""
    return Target(f"{than}{OVER}{FASTPOOL}", ">=", limit, **sizes)


def within(limit: float, of: str, **sizes: float) -> Target:
    """At most `limit` times the time of another call."""
    return Target(f"{FASTPOOL}{OVER}{of}", "<=", limit, **sizes)


def copy_share(limit: float, **sizes: float) -> Target:
    """At least this share of copy bandwidth."""
    return Target(COPY_SHARE, ">=", limit, **sizes)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    group, name : unique together
    task : what is timed, or measured by `probe`
    targets : the limits of its figures
    references : other calls of fastpool, by name, that are timed in turn with it
    peers : the names of the peers that may take part; None for all
    probe : a function of `benchmarks.processes`, called instead of timing
    twice : whether every call is timed as two, whose ratio shows the noise
    """

    group: str
    name: str
    task: Task
    targets: tuple[Target, ...] = ()
    references: Mapping[str, Task] = field(default_factory=dict)
    peers: tuple[str, ...] | None = None
    probe: str | None = None
    twice: bool = False

    @property
    def key(self) -> str:
        return f"{self.group}: {self.name}"

    def small(self) -> Row:
        return replace(self, task=self.task.small(), references={n: t.small() for n, t in self.references.items()})


POOLS = (
    Task("max_pool2d", (8, 64, 112, 112), (3, 2, 1)),
    Task("max_pool2d", (8, 64, 224, 224), (2, 2, 0)),
    Task("max_pool2d", (32, 20, 24, 24), (2, 2, 0)),
    Task("max_pool2d", (8, 192, 28, 28), (3, 1, 1)),
    Task("max_pool2d", (1, 512, 20, 20), (5, 1, 2)),
    Task("max_pool2d", (8, 256, 20, 20), (13, 1, 6)),
    Task("max_pool2d", (1, 1, 4096, 4096), (2, 2, 0)),
    Task("max_pool2d", (1, 37, 215, 181), (3, 2, 1)),
)
VOLUMES_AND_SIGNALS = (
    Task("max_pool3d", (8, 16, 32, 40, 40), (2, 2, 0)),
    Task("max_pool3d", (8, 16, 32, 40, 40), (3, 2, 1)),
    *(Task("max_pool1d", (8, 64, 12544), (k, k, 0)) for k in (2, 3, 4, 5)),
)
MAXOUTS = (
    Task("maxout", (8, 96, 128, 128), pieces=2),
    *(
        Task("maxout", (4096, 512 * pieces), pieces=pieces, grouping=grouping)
        for grouping in ("strided", "contiguous")
        for pieces in (2, 3, 4, 8)
    ),
)
COLUMNS = (
    Task("im2col", (8, 64, 56, 56), (3, 1, 1)),
    Task("im2col", (1, 256, 14, 14), (3, 1, 1)),
    Task("im2col", (8, 3, 224, 224), (7, 2, 3)),
    Task("im2col", (32, 20, 24, 24), (5, 1, 0)),
    Task("im2col", (64, 3, 32, 32), (5, 1, 0)),
)
MB = 1e6
LARGE = 30 * MB
SIDE = 512  # of the planes in the rows of "growth with size"


def _argmax(task: Task) -> Task:
    return replace(task, argmax=True)


def _backward(task: Task) -> Task:
    return replace(task, op=f"{task.op}_backward")


def _last(task: Task) -> Task:
    return replace(task, layout="channels_last")


def _dilation(kernel: int, argmax: bool = False) -> Task:
    return Task("max_pool2d", (1, 1, 2048, 2048), (kernel, 1, kernel // 2), argmax=argmax)


def _pooling() -> Iterator[Row]:
    forward_targets = (faster(1.5, BEST), faster(10, "torch NCHW"), copy_share(0.85, over=LARGE))
    argmax_targets = (faster(1.5, "torch"), faster(8, "torch NCHW"))
    backward_targets = (faster(2, "torch", over=MB), faster(1, "torch", up_to=MB))
    for group, change, targets in (
        ("forward", lambda t: t, forward_targets),
        ("forward channels_last", _last, (faster(1.5, "torch channels_last"),)),
        ("argmax", _argmax, argmax_targets),
        ("argmax channels_last", lambda t: _last(_argmax(t)), (faster(1.5, "torch"),)),
        ("backward", _backward, backward_targets),
        ("backward channels_last", lambda t: _last(_backward(t)), backward_targets),
    ):
        for task in POOLS:
            yield Row(group, task.label, change(task), targets)
    for suffix, change in (("", lambda t: t), (" argmax", _argmax), (" backward", _backward)):
        for task in VOLUMES_AND_SIGNALS:
            yield Row("volumes and signals", task.label + suffix, change(task), (faster(5, "torch NCHW"),))


def _minima() -> Iterator[Row]:
    """Compared with maxima of the same windows; other libraries negate the input and the maxima."""
    for task in (*POOLS[:4], POOLS[5]):
        targets = (faster(1.5, BEST), within(1.5, "maximum"))
        yield Row("minimum", task.label, replace(task, op="min_pool2d"), targets, {"maximum": task})


def _averages() -> Iterator[Row]:
    for group, change in (("average", lambda t: t), ("average channels_last", _last)):
        for task in (POOLS[0], POOLS[1], POOLS[3], Task("max_pool2d", (64, 512, 7, 7), (7, 7, 0))):
            average = change(replace(task, op="avg_pool2d"))
            yield Row(group, task.label, average, (faster(1, "torch"),))
            yield Row(group, f"{task.label} backward", _backward(average), (faster(1, "torch"),))


def _adaptive() -> Iterator[Row]:
    for op in ("adaptive_max_pool2d", "adaptive_avg_pool2d"):
        for size, out in ((56, 7), (50, 7), (32, 5)):
            task = Task(op, (8, 64, size, size), (out, 1, 0))
            yield Row("adaptive", task.label, task, (faster(1, "torch"),))
        last = _last(Task(op, (8, 64, 32, 32), (5, 1, 0)))
        yield Row("adaptive", f"{last.label} channels_last", last, (faster(1, "torch"),))


def _noise() -> Iterator[Row]:
    """Each library against itself: ratios of other rows that are as close to 1 tell nothing."""
    for task in (POOLS[0], POOLS[2], _backward(POOLS[4]), MAXOUTS[0]):
        yield Row("noise", f"{task.op} {task.label}", task, twice=True)


def _dtypes() -> Iterator[Row]:
    """Time in proportion to bytes, and a third more: float16 two thirds of float32's time, uint8 a third."""
    for task in POOLS[:2]:
        for dtype in ("float16", "bfloat16", "uint8", "int8", "float64"):
            bytes_ratio = np.dtype(dtype).itemsize / 4
            targets = (within(round(bytes_ratio * 4 / 3, 3), "float32"),)
            yield Row("dtypes", f"{dtype} {task.label}", replace(task, dtype=dtype), targets, {"float32": task})


def _maxout() -> Iterator[Row]:
    """Thinc has only the contiguous grouping."""
    forward_targets = (faster(1, "torch"), faster(1, "numpy"), copy_share(0.85))
    for task in MAXOUTS:
        yield Row("maxout", task.label, task, forward_targets)
    for group, change in (("maxout argmax", _argmax), ("maxout backward", _backward)):
        for task in MAXOUTS:
            thinc = (faster(3, "thinc"),) if task.grouping == "contiguous" else ()
            yield Row(group, task.label, change(task), (faster(5, "torch"), *thinc))


def _columns_and_activations() -> Iterator[Row]:
    for op in ("im2col", "col2im"):
        for task in COLUMNS:
            yield Row(op, task.label, replace(task, op=op), (faster(4, "torch"), copy_share(0.7)))
    for op in ("hard_swish", "hard_swish_backward", "swish", "swish_backward"):
        for size in (10**7, 10**5):
            task = Task(op, (1, size))
            yield Row("activations", task.label, task, (faster(1.5, "torch"), copy_share(0.8, over=LARGE)))


def _large_windows() -> Iterator[Row]:
    for kernel in (15, 65, 255):
        task = _dilation(kernel)
        flat = (within(2, "15x15"),) if kernel == 255 else ()
        references = {"15x15": _dilation(15)} if kernel == 255 else {}
        yield Row("large windows", task.label, task, (faster(1.5, "opencv"), *flat), references)
    for kernel in (15, 65, 255):
        task = _dilation(kernel, argmax=True)
        targets = (within(4, "without argmax"),)
        yield Row("large windows", f"{task.label} argmax", task, targets, {"without argmax": _dilation(kernel)})


def _filters() -> Iterator[Row]:
    """Dilations of one plane by disks, and by boxes of any number of axes."""
    targets = (faster(1.5, "opencv"), faster(50, "scipy"))
    for kernel in (3, 7, 15, 31, 63, 127, 255):
        for dtype in ("uint8", "uint16", "float32"):
            window = kernel, 1, kernel // 2
            task = Task("maximum_filter", (1, 1, 512, 512), window, disk=True, dtype=dtype)
            yield Row("filters", f"{dtype} {task.label}", task, targets)
    for shape, kernel in (((1, 1, 512, 512), 15), ((1, 1, 64, 128, 128), 9)):
        task = Task("maximum_filter", shape, (kernel, 1, kernel // 2))
        yield Row("filters", task.label, task, targets[1:])


def _tiny_and_single(threads: int) -> Iterator[Row]:
    targets = (within(1, "torch"),)
    for task in (
        Task("max_pool2d", (1, 1, 4, 4), (2, 2, 0)),
        Task("max_pool2d", (8, 16, 12, 12), (2, 2, 0)),
        Task("maxout", (8, 24), pieces=2),
    ):
        yield Row("tiny", task.label, task, targets)
    for channels in (1, 3):
        for side in (224, 512, 1024, 2048, 4096):
            task = Task("max_pool2d", (1, channels, side, side), (3, 2, 1))
            references = {"one thread": replace(task, threads=1)} if threads > 1 else {}
            yield Row("single images", task.label, task, (faster(1.6, "one thread", over=MB),), references)


def _growth(threads: int, up_to_gib: float) -> Iterator[Row]:
    """How time grows with the size, the window and the threads; only the rows of windows have peers."""
    plane = SIDE**2 * 4
    reference = Task("max_pool2d", (64, 1, SIDE, SIDE), (3, 2, 1))
    planes = 1
    while planes * plane <= up_to_gib * 2**30:
        task = replace(reference, shape=(planes, *reference.shape[1:]))
        over_reference = planes / reference.shape[0]
        targets = (within(1.25 * over_reference, "64 MiB"),) if over_reference > 1 else ()
        references = {"64 MiB": reference} if over_reference > 1 else {}
        yield Row("growth with size", f"{planes * plane // 2**20} MiB", task, targets, references, peers=())
        planes *= 4
    for kernel in (3, 5, 9, 15, 33, 65, 127, 255):
        yield Row("growth with window", f"{kernel}x{kernel}", _dilation(kernel))
        yield Row("growth with window", f"{kernel}x{kernel} argmax", _dilation(kernel, argmax=True))
    for task in (POOLS[0], _argmax(POOLS[0]), _backward(POOLS[0]), MAXOUTS[0], COLUMNS[0]):
        references = {_threads(n): replace(task, threads=n) for n in range(1, threads)}
        yield Row("growth with threads", f"{task.op}{' argmax' if task.argmax else ''}", task, (), references, peers=())


def _threads(n: int) -> str:
    return "one thread" if n == 1 else f"{n} threads"


def _processes() -> Iterator[Row]:
    first = Task("max_pool2d", (1, 1, 64, 64), (2, 2, 0))
    targets = (Target(f"import fastpool{OVER}import numpy", "<=", 1.1),)
    yield Row("process", "import", first, targets, probe="import_time")
    for name, limit, probe in (
        ("built kernels", 0.01, "first_call_built"),
        ("Numba with warm caches", 0.5, "first_call_warm"),
        ("Numba with cold caches", 3, "first_call_cold"),
    ):
        yield Row("process", f"first pool, {name}", first, (Target("seconds", "<=", limit),), probe=probe)
    for task in (
        *(change(pool) for pool in POOLS[:2] for change in (lambda t: t, _argmax, _backward, _last)),
        MAXOUTS[0],
        _argmax(MAXOUTS[0]),
        _backward(MAXOUTS[0]),
        _dilation(65),
        _dilation(65, argmax=True),
        Task("max_pool3d", (8, 16, 32, 40, 40), (3, 2, 1)),
        COLUMNS[0],
    ):
        name = " ".join([task.op, *["argmax"] * task.argmax, *["channels_last"] * task.channels_last, task.label])
        yield Row("memory", name, task, (Target(BEYOND_OUTPUTS, "<=", 1),), probe="peak_memory")


def rows(threads: int = 2, up_to_gib: float = 0.25) -> list[Row]:
    """All rows, in the order of the table."""
    return [
        *_pooling(),
        *_minima(),
        *_averages(),
        *_adaptive(),
        *_dtypes(),
        *_maxout(),
        *_columns_and_activations(),
        *_large_windows(),
        *_filters(),
        *_tiny_and_single(threads),
        *_noise(),
        *_growth(threads, up_to_gib),
        *_processes(),
    ]
