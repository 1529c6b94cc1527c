"""Consistency: whether sharpened bands, degraded by the sensor once more, are what was observed."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
from scipy import ndimage

from s2pipe.core.bands import BANDS, bands_at
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import DIMS, Cube, band_names, check_bands
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError, errors_about
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.inputs.dataarray import as_cube
from s2pipe.physics.sensor import Sensor, as_sensor


def measure_consistency(
    sharp: xr.DataArray, data: xr.DataTree | xr.DataArray, *, sensor: Sensor | str | None = None, seed: int = 0
) -> pd.DataFrame:
    """How far sharpened bands, degraded again, are from what was observed.

    Measured on windows sampled from both; nothing else is computed. Pixels whose degradation reads beyond a window, or invalid
    pixels, are left out.

    Parameters
    ----------
    sharp : xarray.DataArray, (time, band, y, x)
        What `s2pipe.sharpen` returned.
    data : xarray.DataTree or xarray.DataArray
        The cube, or the 10 m DataArray, that it was made of.
    sensor : Sensor or str, optional
        What degraded the coarse bands, or its name; default: what `sharp` says it was sharpened for, else the matched
        MTF operator.
    seed : int
        Random seed of the sampling.

    Returns
    -------
    pandas.DataFrame
        One row for each sharpened band, indexed by ``band``: ``gsd`` in metres; ``rmse`` and ``bias``, the mean of degraded
        minus observed, in reflectance; ``pixels``, the coarse pixels compared; ``noise``, the standard deviation of the band's
        noise that `sharp` states (``s2pipe_noise``); ``chi2``, (rmse / noise)^2. More than about 1 is more than noise can be;
        well below 1 is right where most of the misfit was signal, and was corrected. NaN where there is no such figure.

    Raises
    ------
    InputError
        If `sharp` is no sharpened scene, or not of `data`, or the data hold nodata only.

    Examples
    --------
    >>> sharp = s2pipe.sharpen(cube, "glp")  # doctest: +SKIP
    >>> s2pipe.measure_consistency(sharp, cube)["rmse"]  # doctest: +SKIP
    """
    operator = as_sensor(sensor, default=_stated_sensor(sharp))
    sample = sample_sharpened(sharp, data, seed=seed)
    tables = []
    for gsd in (20, 60):
        bands = [band for band in bands_at(sample.bands[10], gsd) if band in sample.bands.get(gsd, ())]
        if bands:
            tables.append(_consistency(sample, gsd, bands, operator))
    noise = pd.Series(json.loads(getattr(sharp, "attrs", {}).get("s2pipe_noise", "{}")), dtype=float)
    table = pd.concat(tables)
    table["noise"] = noise.where(noise > 0).reindex(table.index)
    return table.assign(chi2=(table["rmse"] / table["noise"]) ** 2)


def _stated_sensor(sharp: xr.DataArray) -> Sensor:
    attrs = getattr(sharp, "attrs", {})
    mtf = json.loads(attrs["s2pipe_mtf"]) if "s2pipe_mtf" in attrs else dict(Sensor().mtf)
    return Sensor(name=attrs.get("s2pipe_sensor", "matched"), mtf=tuple(mtf.items()))


def _consistency(sample: Sample, gsd: int, bands: list[str], sensor: Sensor) -> pd.DataFrame:
    sharpened, observed = ([sample.bands[grid].index(band) for band in bands] for grid in (10, gsd))
    parts = [_residuals(window, gsd, sharpened, observed, bands, sensor) for window in sample.windows]
    pixels, total, squares = (np.sum(each, axis=0) for each in zip(*parts, strict=True))
    with np.errstate(invalid="ignore"):  # without a pixel, NaN
        rmse, bias = np.sqrt(squares / pixels), total / pixels
    return pd.DataFrame({"gsd": gsd, "rmse": rmse, "bias": bias, "pixels": pixels}, index=pd.Index(bands, name="band"))


def _residuals(
    window: Window, gsd: int, sharpened: list[int], observed: list[int], bands: list[str], sensor: Sensor
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of degraded minus observed, for each band: how many pixels, their sum and the sum of their squares."""
    ratio = gsd // 10
    degraded = sensor.degrade(torch.from_numpy(window.reflectance[10][sharpened]), bands, ratio).numpy()
    usable = window.valid[gsd][observed] & _valid_around(window.valid[10][sharpened], ratio, sensor.reach(ratio))
    residual = np.where(usable, degraded.astype(np.float64) - window.reflectance[gsd][observed], 0.0)
    return usable.sum(axis=(1, 2)), residual.sum(axis=(1, 2)), (residual**2).sum(axis=(1, 2))


def _valid_around(valid: npt.NDArray[np.bool_], ratio: int, reach: int) -> npt.NDArray[np.bool_]:
    """Where, on the coarse grid, all fine pixels of a block and `reach` beyond it are valid, none of them outside the window."""
    size = ratio + 2 * reach
    # scipy's window begins size // 2 before a pixel; origin has it begin `reach` before
    whole = ndimage.minimum_filter(
        valid, size=(1, size, size), origin=(0, reach - size // 2, reach - size // 2), mode="constant", cval=0
    )
    result: npt.NDArray[np.bool_] = whole[:, ::ratio, ::ratio]
    return result


def sample_sharpened(sharp: xr.DataArray, data: xr.DataTree | xr.DataArray | None, *, seed: int) -> Sample:
    """Read windows of a sharpened scene and, at the same positions, of the cube it was made of.

    Parameters
    ----------
    sharp : xarray.DataArray, (time, band, y, x)
    data : xarray.DataTree, xarray.DataArray or None
    seed : int

    Returns
    -------
    Sample
        At 10 m the bands of `sharp`, and before them the 10 m bands of `data` where `sharp` has none; at 20 m and 60 m what was
        observed, those of `data`.

    Raises
    ------
    InputError
        If `sharp` is no sharpened scene, or not of `data`, or the data hold nodata only.
    """
    check_whole("seed", seed, least=0)
    if not isinstance(sharp, xr.DataArray) or sharp.dims != DIMS or "band" not in sharp.coords:
        raise InputError(
            f"sharp is no DataArray with the dims {DIMS} and named bands; give what s2pipe.sharpen returned", argument="sharp"
        )
    labels = band_names(sharp)
    with errors_about("sharp"):
        bands = check_bands(labels)
    if other := [label for label in labels if label not in bands]:
        raise InputError(f"sharp has bands named {', '.join(other)}; name them as s2pipe.sharpen does, B05", argument="sharp")
    observed = {} if data is None else as_cube(data).arrays
    if observed:
        _check_same_grid(sharp, observed[10])
    has_fine = bool(bands_at(bands, 10))
    known = {band for array in observed.values() for band in band_names(array)} or set(bands)
    if not any(BANDS[band].gsd > 10 and band in known for band in bands) or not (has_fine or observed):
        raise InputError(
            f"sharp has the bands {', '.join(bands)}; needed are a sharpened one, in data= too, and a 10 m band in either",
            argument=("sharp", "data"),
        )
    if not has_fine:
        sharp = xr.concat([observed[10], sharp], "band", coords="minimal", compat="override", combine_attrs="override")
        sharp = sharp.transpose(*DIMS)
    coarser = {gsd: array for gsd, array in observed.items() if gsd > 10}
    return Sample.of(Cube({10: sharp, **coarser}, Encoding.from_attrs(sharp.dtype, sharp.attrs)), seed=seed)


def _check_same_grid(sharp: xr.DataArray, fine: xr.DataArray) -> None:
    encodings = [repr(Encoding.from_attrs(array.dtype, array.attrs)) for array in (sharp, fine)]
    same_labels = all(sharp.get_index(axis).equals(fine.get_index(axis)) for axis in ("time", "y", "x"))
    if not same_labels or encodings[0] != encodings[1]:
        raise InputError(
            f"sharp has other times, coordinates or units than data: {dict(sharp.sizes)} as {encodings[0]} and "
            f"{dict(fine.sizes)} as {encodings[1]}; give the cube that sharp was made of",
            argument=("sharp", "data"),
        )
