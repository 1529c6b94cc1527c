"""Halos: the only module that handles dask graphs. Overlap the chunks, sharpen each in the worker, keep its middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.tokenize import tokenize

from s2pipe.core import lattice
from s2pipe.core.bands import BANDS, bands_at
from s2pipe.core.cube import Cube
from s2pipe.core.encoding import SATURATED_DN, Encoding
from s2pipe.core.errors import S2PipeError
from s2pipe.core.fill import fill_nodata
from s2pipe.core.options import Options, options
from s2pipe.core.pixels import Pixels
from s2pipe.core.types import AnyArray
from s2pipe.engine import clusters, worker
from s2pipe.methods.base import Sharpener

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a chunk's task must know beside its pixels and the Sharpener.

    Attributes
    ----------
    gsds : tuple of int
        Resolutions of the arrays it gets, finest first.
    bands : tuple of tuple of str
        Band names of each of these arrays.
    bands_out : tuple of str
        Bands to return, in this order.
    encoding : Encoding
        Of what it gets and returns.
    grid : tuple of int
        Number of chunks along y and x.
    depth : int
        Overlap in 10 m pixels on the sides that have a neighbour: the Sharpener's halo, and as much again to fill
        nodata in that halo from.
    device : str
    options : Options
        Of the process that plans.
    """

    gsds: tuple[int, ...]
    bands: tuple[tuple[str, ...], ...]
    bands_out: tuple[str, ...]
    encoding: Encoding
    grid: tuple[int, int]
    depth: int
    device: str
    options: Options


def sharpen_chunks(cube: Cube, sharpener: Sharpener | None, bands_out: Sequence[str], *, device: str) -> da.Array:
    """Sharpen a cube chunk by chunk, lazily.

    Parameters
    ----------
    cube : Cube
        Holds the Sharpener's bands and the 10 m bands asked for; other resolutions are not read. The chunks of its 10 m bands
        decide.
    sharpener : Sharpener or None
        None copies 10 m bands only.
    bands_out : sequence of str
        Bands to return, in this order: 10 m bands, which are copied untouched, and bands the Sharpener makes.
    device : str
        Resolved by the worker that computes.

    Returns
    -------
    dask.array.Array, (time, band, y, x)
        In the cube's own encoding.

    Raises
    ------
    InputError
        If a chunk is no multiple of 6 px or thinner than the halo, or the device is CUDA and no worker of the cluster has it.
    """
    halo = sharpener.halo if sharpener else 0
    given = [plan_axis(cube.fine, axis, halo) for axis in ("y", "x")]
    on_gpu_workers = sharpener is not None and clusters.runs_on_gpus(device)
    on_gpu = on_gpu_workers or (clusters.current_client() is None and worker.finds_gpu(device))
    # A GPU is idle most of the time that it is given small chunks, and works on their halos for the rest.
    edge = max(options.cuda_block) if on_gpu else 0
    chunks = [lattice.join_small_chunks(axis, edge=edge) for axis in given]
    depth = 2 * halo
    used = {10} | {BANDS[band].gsd for band in (*bands_out, *(sharpener.bands_in if sharpener else ()))}
    arrays = {gsd: array for gsd, array in cube.arrays.items() if gsd in used}
    task = Task(
        gsds=tuple(arrays),
        bands=tuple(cube.bands[gsd] for gsd in arrays),
        bands_out=tuple(bands_out),
        encoding=cube.encoding,
        grid=(len(chunks[0]), len(chunks[1])),
        depth=depth,
        device=device,
        options=replace(options),
    )
    overlapped = [_overlap(array, chunks, gsd // 10, depth) for gsd, array in arrays.items()]
    # One key of the graph, which every chunk's task names: weights and settings reach a worker once, however many chunks it does.
    token = tokenize(sharpener, task)
    shared = dask.delayed((sharpener, task), name=f"sharpener-{token}", traverse=False)
    with clusters.where_gpus_are() if on_gpu_workers else nullcontext():
        sharpened: da.Array = da.map_blocks(
            _sharpen_chunk,
            *overlapped,
            shared=shared,
            name=f"sharpen-{tokenize(token, *overlapped)}",
            chunks=(overlapped[0].chunks[0], (len(bands_out),), *chunks),
            dtype=task.encoding.dtype,
            meta=np.empty((0, 0, 0, 0), dtype=task.encoding.dtype),
        )
    result: da.Array = sharpened.rechunk((*sharpened.chunks[:2], *given))
    return result


def plan_axis(fine: xr.DataArray, axis: str, halo: int) -> tuple[int, ...]:
    """Chunks to work in along one axis of the 10 m node: those it has, checked, thin ones joined to a neighbour."""
    if fine.chunks is None:
        chunks = lattice.regular_chunks(fine.sizes[axis], lattice.DEFAULT_CHUNK)
    else:
        chunks = fine.chunksizes[axis]
        lattice.check_chunks(chunks, halo=halo, axis=axis)
    return lattice.join_thin_chunks(chunks, depth=max(2 * halo, lattice.STEP))


def _overlap(array: xr.DataArray, chunks: list[tuple[int, ...]], ratio: int, depth: int) -> da.Array:
    plan = ((1,) * array.sizes["time"], (array.sizes["band"],), *(tuple(c // ratio for c in axis) for axis in chunks))
    data = array.data.rechunk(plan) if array.chunks is not None else da.from_array(array.data, chunks=plan)
    depths = {0: 0, 1: 0} | {2 + i: depth // ratio if len(axis) > 1 else 0 for i, axis in enumerate(chunks)}
    overlapped: da.Array = da.overlap.overlap(data, depth=depths, boundary="none", allow_rechunk=False)
    return overlapped


def _sharpen_chunk(*blocks: AnyArray, shared: tuple[Sharpener | None, Task], block_id: tuple[int, ...]) -> AnyArray:
    """One chunk: `blocks` (1, band, y, x) of each resolution, overlapping its neighbours; returns (1, band, y, x)."""
    sharpener, task = shared
    numbers = dict(zip(task.gsds, (block[0] for block in blocks), strict=True))
    edges = Edges.of(block_id, task)
    core = {gsd: array[(slice(None), *edges.core(array.shape, gsd // 10))] for gsd, array in numbers.items()}
    out = np.full((len(task.bands_out), *core[10].shape[1:]), task.encoding.nodata, dtype=task.encoding.dtype)
    copied = dict(zip(task.bands[0], core[10], strict=True))
    made = [band for band in task.bands_out if band not in copied]
    fine = ~task.encoding.is_nodata(core[10]).any(axis=0)
    nodata = _on_fine_grid(core, task, made, task.encoding.is_nodata)
    # a coarse band's result is valid where its own pixel and all 10 m bands are
    valid = {band: fine & ~nodata[band] for band in made}
    sharpened = None
    if sharpener is not None and any(valid[band].any() for band in made):
        sharpened = _sharpen_numbers(numbers, sharpener, task, edges)
        saturated = _on_fine_grid(core, task, made, task.encoding.is_saturated)
    for i, band in enumerate(task.bands_out):
        if band in copied:
            out[i] = copied[band]
        elif sharpener is not None and sharpened is not None:
            np.copyto(out[i], task.encoding.encode(sharpened[sharpener.bands_out.index(band)]), where=valid[band])
            if saturated[band].any():
                out[i][saturated[band] & valid[band]] = SATURATED_DN
    return out[None]


def _on_fine_grid(
    core: dict[int, AnyArray],
    task: Task,
    wanted: Sequence[str],
    test: Callable[[AnyArray], npt.NDArray[np.bool_]],
) -> dict[str, npt.NDArray[np.bool_]]:
    """`test` of the numbers of the coarse bands `wanted`, repeated to 10 m."""
    return {
        band: test(core[gsd][bands.index(band)]).repeat(gsd // 10, axis=0).repeat(gsd // 10, axis=1)
        for gsd, bands in zip(task.gsds, task.bands, strict=True)
        for band in bands_at(wanted, gsd)
    }


def _sharpen_numbers(numbers: dict[int, AnyArray], sharpener: Sharpener, task: Task, edges: Edges) -> npt.NDArray[np.float32]:
    """Reflectance of the Sharpener's bands over the chunk: decoded, filled, padded by the halo, sharpened."""
    reflectance, valid = {}, {}
    for gsd, bands in zip(task.gsds, task.bands, strict=True):
        wanted = bands_at(sharpener.bands_in, gsd)
        if wanted or gsd == 10:
            rows = [bands.index(band) for band in wanted] if wanted else list(range(len(bands)))
            decoded, ratio = task.encoding.decode(numbers[gsd][rows]), gsd // 10
            filled = fill_nodata(decoded, reach=sharpener.halo // ratio)
            reflectance[gsd] = edges.pad(filled, halo=sharpener.halo, ratio=ratio)
            valid[gsd] = edges.pad(np.isfinite(decoded), halo=sharpener.halo, ratio=ratio)
    pixels = Pixels(reflectance=reflectance, valid=valid)
    sharpened = worker.THIS_WORKER.sharpen(sharpener, pixels, device=task.device, options=task.options)
    if not np.isfinite(sharpened).all():
        raise S2PipeError(f"the {type(sharpener).__name__} gave results that are not finite; fit it anew")
    return sharpened


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Which sides of a chunk end the scene, (first, last) along y and x; the others overlap a neighbour by `depth` pixels."""

    y: tuple[bool, bool]
    x: tuple[bool, bool]
    depth: int

    @classmethod
    def of(cls, block_id: tuple[int, ...], task: Task) -> Edges:
        """Of the chunk that dask calls `block_id`, (time, band, y, x)."""
        (row, column), (rows, columns) = block_id[2:], task.grid
        return cls(y=(row == 0, row == rows - 1), x=(column == 0, column == columns - 1), depth=task.depth)

    def core(self, shape: tuple[int, ...], ratio: int, *, halo: int = 0) -> tuple[slice, slice]:
        """The chunk's own rows and columns within a block of `shape` (band, y, x), and `halo` 10 m pixels of its neighbours."""
        cut = (self.depth - halo) // ratio
        rows, columns = (
            slice(0 if first else cut, size if last else size - cut)
            for (first, last), size in zip((self.y, self.x), shape[1:], strict=True)
        )
        return rows, columns

    def pad(self, block: npt.NDArray[Number], *, halo: int, ratio: int) -> npt.NDArray[Number]:
        """The block with just `halo` 10 m pixels around its core, mirrored where the scene ends."""
        widths = [(halo // ratio * first, halo // ratio * last) for first, last in (self.y, self.x)]
        kept = block[(slice(None), *self.core(block.shape, ratio, halo=halo))]
        return np.pad(kept, [(0, 0), *widths], mode="symmetric")
