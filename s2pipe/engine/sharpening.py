"""Sharpening a cube: the Sharpener for it, and the result with its labels and the record of how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask.array as da
import xarray as xr

from s2pipe.core.cube import DIMS, PER_DATE_COORDS, Cube
from s2pipe.core.errors import InputError
from s2pipe.core.progress import Progress
from s2pipe.engine.fit import DEFAULT_METHOD, FitArguments, check_runs_here, coarse_of, fit_for
from s2pipe.engine.halo import sharpen_chunks
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import Method, Sharpener
from s2pipe.physics.sensor import Sensor


def sharpen(
    data: xr.DataTree | xr.DataArray,
    method: str | Method | Sharpener = DEFAULT_METHOD,
    *,
    sensor: Sensor | str | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    **fit_options: Any,
) -> xr.DataArray:
    """All bands at 10 m, lazily.

    A method given by name is fitted at once, on windows sampled from `data`; everything else waits for ``compute`` or a write.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        A cube, or one DataArray (time, band, y, x) on a 10 m grid as ``stackstac.stack(..., resolution=10)`` gives with
        nearest resampling. The chunks of its 10 m bands are multiples of 6, no thinner than the
        method's halo; they are those of the result, but that chunks thinner than twice the halo are joined.
    method : str, Method or Sharpener
        A name from `list_methods`, a recipe, or a Sharpener that `fit` gave, which is used as it is.
    sensor : Sensor or str, optional
        What degraded the coarse bands, or its name: ``"matched"``, ``"centre"``, ``"corner"`` or ``"box"``; default: the matched
        operator.
    bands : sequence of str, optional
        Bands to return, by ESA's names or common ones (``"B05"``, ``"rededge1"``); default: all of `data`. Without a 60 m band
        among them the 60 m bands are not used either.
    device : str
        ``"auto"`` (CUDA where the computing process has it, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. On a
        dask cluster some of whose workers declare a GPU (``--resources GPU=1``) networks run on those only with ``"auto"`` and
        ``"cuda"``, when the result is written; to ``compute`` it so, set dask's ``optimization.fuse.active`` to False. Without
        such a worker ``"cuda"`` is refused.
    precision : {"auto", "float32", "bfloat16"}
        What networks compute in. ``"auto"`` is bfloat16 where the processor of this process, or its GPU, has instructions for it,
        else float32; the environment variable ``S2PIPE_PRECISION`` replaces it. It is decided here, once: all workers compute in
        it, and one that cannot raises an error. A fitted Sharpener keeps its own, unless another is named. Methods without a
        network, and ssc-cnn, resnet and s2sucnn once they are trained, compute in float32 always.
    seed : int, optional
        Random seed of the fit, default 0. The same gives equal weights on CPUs of one kind, however many threads there are, and
        nearly equal ones on a GPU. A fitted Sharpener takes none.
    checkpoint, progress
        See `fit`.
    **fit_options
        Options of the method, such as ``steps=500`` of ssc-cnn.

    Returns
    -------
    xarray.DataArray
        ``reflectance`` (time, band, y, x) at 10 m, bands in ESA's order, in the dtype, units and nodata of `data`. A sharpened
        pixel is valid where its own coarse pixel and all 10 m bands are; 10 m bands are copied. ``attrs`` state how it
        was made (``s2pipe_*``).

    Raises
    ------
    InputError
        If the data, a name, an option or a chunk size is not usable.

    Examples
    --------
    >>> sharp = s2pipe.sharpen(cube, "glp", bands=["B05", "swir16"])  # doctest: +SKIP
    >>> s2pipe.to_zarr(sharp, "sharp.zarr")  # doctest: +SKIP
    """
    arguments = FitArguments(
        method=method,
        sensor=sensor,
        seed=seed,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        progress=progress,
        options=fit_options,
    )
    cube = as_cube(data)
    wanted = cube.bands_named(bands)
    fitted = arguments.fitted()
    sharpener = fit_for(cube, wanted, arguments) if fitted is None else fitted
    return sharpen_cube(cube, wanted, sharpener, device=device)


def sharpen_cube(cube: Cube, bands: Sequence[str], sharpener: Sharpener | None, *, device: str) -> xr.DataArray:
    """These bands of a cube at 10 m, lazily, see `sharpen`; without a Sharpener 10 m bands only."""
    coarse = coarse_of(bands)
    used = sharpener if coarse else None
    if used is not None:
        _check_sharpener(used, cube.all_bands, coarse)
        check_runs_here(used, device)
    return _label(sharpen_chunks(cube, used, bands, device=device), cube, bands, used)


def _check_sharpener(sharpener: Sharpener, available: Sequence[str], coarse: Sequence[str]) -> None:
    if missing := [band for band in sharpener.bands_in if band not in available]:
        raise InputError(
            f"the Sharpener needs bands {', '.join(missing)}, which the data lack; they have {', '.join(available)}",
            argument="data",
        )
    if strange := [band for band in coarse if band not in sharpener.bands_out]:
        raise InputError(
            f"the Sharpener does not make bands {', '.join(strange)} but {', '.join(sharpener.bands_out)}; "
            "fit again, or ask for fewer bands=",
            argument="bands",
        )


def _label(numbers: da.Array, cube: Cube, bands: Sequence[str], sharpener: Sharpener | None) -> xr.DataArray:
    coords = cube.fine.coords
    names = [name for name in ("time", "y", "x", "spatial_ref", *PER_DATE_COORDS) if name in coords]
    result = xr.DataArray(
        numbers,
        dims=DIMS,
        coords={"band": list(bands)} | {name: coords[name].variable for name in names},
        name="reflectance",
        attrs=cube.encoding.attrs() | _provenance(sharpener),
    )
    if "spatial_ref" in result.coords:
        result.encoding["grid_mapping"] = "spatial_ref"
    return result


def _provenance(sharpener: Sharpener | None) -> dict[str, object]:
    """Flat attributes, as stores can hold them."""
    made: Mapping[str, object] = {} if sharpener is None else sharpener.provenance()
    stated = {"version": version("s2pipe"), **made}
    return {f"s2pipe_{key}": json.dumps(value) if isinstance(value, dict) else value for key, value in stated.items()}
