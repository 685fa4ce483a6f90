"""Pyramids of a slide that need not fit into memory, of labels of the nuclei on it, and of a real photograph, tiled.

    python examples/pyramid.py [--size 20480] [--folder FOLDER]

Needs the extras `dask` and `demo`: pip install "fastpool[dask,demo]". Without --folder the pyramids are deleted in the
end. Ends with 1 if a level is not what pooling in memory gives (of the slide and its labels, a part is checked).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

import fastpool as fp

try:
    import dask
    import dask.array as da
    import zarr
    from rich.console import Console
    from rich.table import Table
    from sklearn.datasets import load_sample_image

    from fastpool.integrations.dask import pyramid
except ImportError as error:
    sys.exit(f'{error}: pip install "fastpool[dask,demo]"')

PITCH = 24  # pixels from nucleus to nucleus
CHUNK = 1024
console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)


def mixed(a: np.ndarray, b: np.ndarray, salt: int) -> np.ndarray:
    """Numbers from 0 to 1 that look random, and are always the same for two integers."""
    h = (a * 0x9E3779B1 ^ b * 0x85EBCA77 ^ salt * 0xC2B2AE3D) & 0xFFFFFFFF
    h = (h ^ h >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    h = (h ^ h >> 12) * 0x297A2D39 & 0xFFFFFFFF
    return ((h ^ h >> 15) & 0xFFFF).astype(np.float32) / 0xFFFF


def slide_chunk(block_info=None) -> np.ndarray:
    """Part of a slide in two colours: nuclei, each a bright spot in a cell of its own, and the tissue around them."""
    _, (top, bottom), (left, right) = block_info[None]["array-location"]
    y, x = np.arange(top, bottom, dtype=np.float32), np.arange(left, right, dtype=np.float32)
    tissue = np.full((len(y), len(x)), 0.4, np.float32)
    for octave, (u, v) in enumerate(((0.31, 0.17), (0.23, 0.41), (0.61, 0.53)), 1):
        wave = np.float32(octave / 1024)
        tissue += np.outer(np.sin(u + wave * y) / octave, np.cos(v + 1.3 * wave * x))
    np.clip(tissue, 0, 1, out=tissue)

    # Whole cells, as (row, y in the row, column, x in the column), of which this part is cut out.
    rows, columns = np.arange(top // PITCH, bottom // PITCH + 1), np.arange(left // PITCH, right // PITCH + 1)
    cells = rows[:, None, None, None], columns[None, None, :, None]
    radius = 4 + 4 * mixed(*cells, 1)
    middle_y, middle_x = (radius + (PITCH - 2 * radius) * mixed(*cells, salt) for salt in (2, 3))
    within = np.arange(PITCH, dtype=np.float32)
    nuclei = (within[:, None, None] - middle_y) ** 2 + (within - middle_x) ** 2
    nuclei *= -1 / radius**2
    nuclei += 1
    np.clip(nuclei, 0, 1, out=nuclei)
    nuclei *= mixed(*cells, 4)
    top, left = top - PITCH * rows[0], left - PITCH * columns[0]
    nuclei = nuclei.reshape(PITCH * len(rows), -1)[top : top + len(y), left : left + len(x)] * (tissue > 0.2)
    return np.stack([(255 * nuclei).astype(np.uint8), (150 * tissue + 25 * nuclei).astype(np.uint8)])


def generated_slide(size: int) -> da.Array:
    chunks = ((2,), *da.core.normalize_chunks(CHUNK, (size, size)))
    return da.map_blocks(slide_chunk, chunks=chunks, meta=np.empty((0, 0, 0), np.uint8))


def labelled(slide: da.Array) -> da.Array:
    """The nuclei of a slide, each by a number of its own; 0 is what lies between them."""
    rows, columns = (da.arange(size, chunks=CHUNK) // PITCH for size in slide.shape[1:])
    numbers = 1 + rows[:, None] * (slide.shape[2] // PITCH + 1) + columns
    return da.where(slide[0] > 0, numbers, 0).astype(np.uint32)


def tiled_photograph(size: int) -> da.Array:
    """A photograph of 427x640 in three colours, tiled until it is about half as wide as `size`."""
    photo = np.moveaxis(load_sample_image("china.jpg"), -1, 0)
    times = max(size // 2 // photo.shape[2], 1)
    return da.tile(da.from_array(photo), (1, times, times)).rechunk((1, CHUNK, CHUNK))


def peak_megabytes() -> float | None:
    """Of this process, where the system tells."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) * 1.024e-3 for line in status.read_text().splitlines() if "VmHWM" in line)


def most_frequent(labels: np.ndarray) -> np.ndarray:
    """Of four labels in order, those that are equal are neighbours; the first of all is the smallest."""
    height, width = (n // 2 for n in labels.shape)
    windows = labels[: 2 * height, : 2 * width].reshape(height, 2, width, 2).swapaxes(1, 2).reshape(height, width, 4)
    a, b, c, d = np.moveaxis(np.sort(windows, axis=-1), -1, 0)
    return np.where(a == b, a, np.where(b == c, b, np.where(c == d, c, a)))


def is_right(levels: list[da.Array], image: da.Array, method: str, side: int) -> bool:
    """Whether the corner of each level is what pooling the corner of the image in memory gives."""
    expected = image[..., :side, :side].compute()
    for level in levels:
        height, width = expected.shape[-2:]
        if not np.array_equal(level[..., :height, :width].compute(), expected):
            return False
        expected = fp.max_pool2d(expected, 2) if method == "max" else most_frequent(expected)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=20480, help="of the slide's side, in pixels (default 20480)")
    parser.add_argument("--folder", type=Path, help="where the pyramids are kept, for a later run to go on with")
    args = parser.parse_args()
    slide = generated_slide(args.size)
    images = {
        "slide": (slide, "max"),
        "slide.zarr/labels/nuclei": (labelled(slide), "mode"),
        "photograph": (tiled_photograph(args.size), "max"),
    }
    table = Table("image", "shape", "MB", "levels", "s", "MB/s", "on disk, MB", "second run, s")
    right = True
    with tempfile.TemporaryDirectory() as temporary, dask.config.set(scheduler="threads"):
        folder = args.folder or Path(temporary)
        for name, (image, method) in images.items():
            levels = max(int(np.log2(min(image.shape[-2:]) / 128)), 1) + 1
            options = {
                "levels": levels,
                "store": folder / (f"{name}.zarr" if method == "max" else name),
                "method": method,
                "axes": "cyx" if image.ndim == 3 else "yx",
                "scale": {"y": 0.25, "x": 0.25},
                "units": {"y": "micrometer", "x": "micrometer"},
                "name": Path(name).name,
            }
            start = perf_counter()
            made = pyramid(image, **options, progress=True)
            seconds = perf_counter() - start
            pyramid(image, **options)
            second_run = perf_counter() - start - seconds
            right &= is_right(made, image, method, 4096)
            stored = sum(file.stat().st_size for file in Path(options["store"]).rglob("*") if file.is_file())
            measured = (f"{n:.1f}" for n in (seconds, image.nbytes / 1e6 / seconds, stored / 1e6, second_run))
            table.add_row(Path(name).name, str(image.shape), f"{image.nbytes / 1e6:.0f}", str(levels), *measured)
        zarr.open_group(folder / "slide.zarr/labels").attrs["ome"] = {"version": "0.5", "labels": ["nuclei"]}
    console.print(table)
    peak = peak_megabytes()
    if peak is not None:
        console.print(f"{os.cpu_count()} CPUs; at its peak this process took {peak:.0f} MB, with all its libraries")
    console.print("all levels are right" if right else "[red]a level is not what pooling in memory gives[/red]")
    console.print(
        f"fastpool {fp.__version__}, dask {dask.__version__}, zarr {zarr.__version__}, numpy {np.__version__}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
