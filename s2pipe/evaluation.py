"""Wald's protocol: the scene one scale lower, where what the sensor saw is the reference."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
from affine import Affine

from s2pipe import metrics
from s2pipe.bands import node_name
from s2pipe.checks import check_whole
from s2pipe.cube import as_cube, bands_by_gsd, encoding_of, make_node, nodes
from s2pipe.errors import InputError
from s2pipe.fill import fill_nodata
from s2pipe.lattice import STEP
from s2pipe.methods import METHODS, Method, Sharpener, get_method
from s2pipe.progress import Progress
from s2pipe.radiometry import Encoding
from s2pipe.registration import warn_if_misregistered
from s2pipe.sampling import Sample, fingerprint
from s2pipe.sensor import Protocol, Sensor, as_sensor
from s2pipe.sharpening import as_method, check_fit, fit_sample, sharpen

COLUMNS = (
    "method", "protocol", "gsd", "band", "sre_db", "rmse", "ssim", "uiqi", "sam_deg", "ergas", "seconds", "in_sample",
    "interpolated",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A scene one scale lower, and what the sensor saw there. What makes the estimates gets the cube only.

    Attributes
    ----------
    cube : xarray.DataTree
        The bands at each resolution, degraded by the ratio of `gsd`, float32 reflectance with NaN. Labels and resolutions are
        those of the scene: what is called 10 m here is `gsd` in truth.
    reference : ndarray, (band, y, x)
        The observed bands of `gsd`, float32 reflectance with NaN, on the grid of the cube's 10 m node.
    gsd : int
        20 or 60.
    protocol : str
        What degraded the cube.
    """

    cube: xr.DataTree
    reference: npt.NDArray[np.float32]
    gsd: int
    protocol: str

    @cached_property
    def fingerprint(self) -> npt.NDArray[np.uint64]:
        """What tells the reference again, see `s2pipe.sampling.fingerprint`."""
        seen = np.isfinite(self.reference)
        return fingerprint(np.where(seen, self.reference, 0), seen)


def evaluate(
    data: xr.DataTree | xr.DataArray,
    methods: str | Method | Sharpener | Sequence[str | Method | Sharpener],
    *,
    protocol: Protocol = "centre",
    gsd: int = 20,
    crop: int = 2,
    sensor: Sensor | None = None,
    reference: npt.NDArray[Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    **fit_options: Any,
) -> pd.DataFrame:
    """Sharpen the scene one scale lower, and hold the results against what was observed (Wald's protocol).

    All bands are degraded by the ratio of `gsd`; the methods, fitted on these alone, sharpen them back. The 60 m
    bands are fed where the scene has them. The scene is cropped right and bottom so that it can be degraded. Everything
    is computed on reflectance, which a storage offset does not inflate, where both reference and estimate are valid.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        One date of a scene, as for `sharpen`.
    methods : str, Method, Sharpener, or a list or tuple of these
        Names and recipes are fitted on the degraded scene. A fitted Sharpener is used as it is; one that was fitted on this
        very scene, and so has seen the reference, is marked in the column ``in_sample``. Bands for which a method found too
        little to be fitted on, and which it therefore interpolated, are marked in the column ``interpolated``.
    protocol : {"centre", "corner", "box"}
        What degrades the scene, see `Sensor`.
    gsd : {20, 60}
        Resolution of the bands that are judged.
    crop : int
        Pixels left out beside each edge of the reference.
    sensor : Sensor, optional
        What the methods are told of the degradation; default: the truth. Another shows what a wrong statement costs.
    reference : ndarray, (band, y, x), optional
        For a scene that came degraded, by the ratio of `gsd` and as `protocol` says: its bands of `gsd` as observed, on the
        grid of its 10 m bands and in its numbers. The scene is then neither degraded nor cropped.
    seed, device, progress
        As for `sharpen`.
    **fit_options
        Options such as ``steps=500``, given to every method named here that has them.

    Returns
    -------
    pandas.DataFrame
        A row for each method and band, and one with ``band="all"``. Columns: ``method``, ``protocol``, ``gsd``, ``band``,
        ``sre_db`` (dB), ``rmse`` (reflectance), ``ssim``, ``uiqi``, ``sam_deg`` (degrees), ``ergas``, ``seconds`` (fit and
        sharpening), ``in_sample``, ``interpolated``. On the rows of all bands SRE, SSIM and UIQI are means over the bands, RMSE
        is that of all bands together; SAM and ERGAS stand there only.

    Raises
    ------
    InputError
        If an argument is not legal, the scene is too small, has several dates or no band of `gsd`, its reference has another
        shape, or a Sharpener was fitted for another sensor.
    """
    cube = as_cube(data)
    seed = check_whole("seed", seed, least=0)
    operator = Sensor.named(protocol)
    told = as_sensor(sensor, default=operator)
    recipes = _recipes(list(methods) if isinstance(methods, (list, tuple)) else [methods], fit_options)
    reduced = reduce_scene(cube, operator, gsd) if reference is None else with_reference(cube, reference, operator, gsd)
    sample = Sample.of(cube, seed=seed)
    warn_if_misregistered(sample.windows, sample.bands)
    return score(reduced, recipes, crop=crop, sensor=told, seed=seed, device=device, progress=progress)


def score(
    reduced: Reduced,
    methods: Sequence[Method | Sharpener],
    *,
    crop: int = 2,
    sensor: Sensor,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `evaluate` for a scene that is reduced already."""
    crop = check_whole("crop", crop, least=0)
    height, width = reduced.reference.shape[1:]
    if min(height, width) <= 2 * crop:
        raise InputError(f"crop={crop} leaves nothing of a reference of {height} x {width} px; give less")
    for method in methods:
        _check_method(method, reduced, sensor, device)
    sample = replace(Sample.of(reduced.cube, seed=seed), gsds=(reduced.gsd,))
    tables = []
    for label, method in zip(_labels(methods), methods, strict=True):
        start = time.perf_counter()
        if isinstance(method, Sharpener):
            sharpener = method
        else:
            sharpener = fit_sample(sample, method, sensor=sensor, seed=seed, device=device, checkpoint=None, progress=progress)
        estimate = _judged_bands(reduced, sharpener, device).compute().values[0]
        seconds = time.perf_counter() - start
        seen = getattr(sharpener, "fingerprint", ())
        in_sample = len(seen) > 0 and bool(np.isin(seen, reduced.fingerprint).any())
        table = compare(reduced, estimate, crop=crop)
        interpolated = table["band"].isin(getattr(sharpener, "bicubic_bands", ()))
        interpolated |= (table["band"] == "all") & interpolated.any()
        tables.append(table.assign(method=label, seconds=seconds, in_sample=in_sample, interpolated=interpolated))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def reduce_scene(cube: xr.DataTree, operator: Sensor, gsd: int) -> Reduced:
    """Degrade every resolution of a scene of one date by the ratio of `gsd`, and keep its bands of `gsd` as the reference.

    Raises
    ------
    InputError
        If the scene has several dates, no band of `gsd`, or is too small.
    """
    arrays, bands = _nodes_to_judge(cube, gsd), bands_by_gsd(cube)
    ratio = gsd // 10
    step = STEP * ratio  # so that the coarsest band can be degraded once more
    height, width = (arrays[10].sizes[axis] // step * step for axis in ("y", "x"))
    if not height or not width:
        raise InputError(
            f"the scene has {arrays[10].sizes['y']} x {arrays[10].sizes['x']} px at 10 m; to be degraded by {ratio} "
            f"it must have at least {step} x {step} px"
        )
    encoding = encoding_of(cube)
    observed = {
        own: encoding.decode(np.asarray(array.data[0, :, : height * 10 // own, : width * 10 // own]))
        for own, array in arrays.items()
    }
    lower = {
        node_name(own): _node(_degrade(array, operator, bands[own], ratio), bands[own], own) for own, array in observed.items()
    }
    return Reduced(cube=xr.DataTree.from_dict(lower), reference=observed[gsd], gsd=gsd, protocol=operator.protocol)


def with_reference(cube: xr.DataTree, reference: npt.NDArray[Any], operator: Sensor, gsd: int) -> Reduced:
    """A scene of one date that `operator` degraded before it came, and its bands of `gsd` as observed, in the cube's numbers.

    Raises
    ------
    InputError
        If the scene has several dates or no band of `gsd`, or the reference is not of these bands on the grid of the 10 m bands.
    """
    arrays, bands = _nodes_to_judge(cube, gsd), bands_by_gsd(cube)
    reference = np.asarray(reference)
    expected = (len(bands[gsd]), arrays[10].sizes["y"], arrays[10].sizes["x"])
    if reference.shape != expected:
        raise InputError(
            f"reference has the shape {reference.shape}; expected {expected}, the {gsd} m bands on the grid of the 10 m bands; "
            "change reference= or gsd="
        )
    encoding = encoding_of(cube)
    if (reference.dtype.kind == "f") == encoding.is_integer:
        raise InputError(f"reference is {reference.dtype}, and the scene holds {encoding.dtype}; give both in the same numbers")
    lower = {node_name(own): _node(encoding.decode(np.asarray(array.data[0])), bands[own], own) for own, array in arrays.items()}
    return Reduced(cube=xr.DataTree.from_dict(lower), reference=encoding.decode(reference), gsd=gsd, protocol=operator.protocol)


def _nodes_to_judge(cube: xr.DataTree, gsd: int) -> dict[int, xr.DataArray]:
    """The nodes of a scene of one date that has bands of `gsd`."""
    if check_whole("gsd", gsd, least=10) not in (20, 60):
        raise InputError(f"gsd={gsd!r} must be 20 or 60")
    arrays = nodes(cube)
    if gsd not in arrays:
        raise InputError(f"the data have no {gsd} m bands to judge; they have {', '.join(map(node_name, arrays))}")
    if (dates := arrays[10].sizes["time"]) > 1:
        raise InputError(f"the data have {dates} dates; evaluate one at a time, such as data.isel(time=[0])")
    return arrays


def _degrade(reflectance: npt.NDArray[np.float32], operator: Sensor, bands: Sequence[str], ratio: int) -> npt.NDArray[np.float32]:
    """What `operator` sees; NaN where any pixel of a block is."""
    filled = fill_nodata(reflectance, reach=max(reflectance.shape))
    degraded: npt.NDArray[np.float32] = operator.degrade(torch.from_numpy(np.ascontiguousarray(filled)), bands, ratio).numpy()
    count, height, width = degraded.shape
    unseen = np.isnan(reflectance).reshape(count, height, ratio, width, ratio).any(axis=(2, 4))
    degraded[unseen] = np.nan
    return degraded


def _node(array: npt.NDArray[np.float32], bands: Sequence[str], gsd: int) -> xr.Dataset:
    encoding = Encoding.default(array.dtype, scale=None, offset=0.0, nodata=None)
    return make_node(array[None], bands, encoding=encoding, transform=Affine(gsd, 0, 0, 0, -gsd, 0))


def _recipes(methods: Sequence[Any], fit_options: Mapping[str, Any]) -> list[Any]:
    """What was given, but each name as its recipe, with those of the options that it has."""
    if not methods:
        raise InputError(f"methods is empty; give names, of {', '.join(METHODS)}, Methods or Sharpeners")
    recipes = [_recipe(method, fit_options) if isinstance(method, str) else method for method in methods]
    named = [method for method in methods if isinstance(method, str)]
    legal = {option for name in named for option in _options(name)}
    if unknown := [name for name in fit_options if name not in legal]:
        raise InputError(
            f"none of the methods named ({', '.join(named) or 'none'}) has the option {', '.join(map(repr, unknown))}; "
            f"their options are {', '.join(sorted(legal)) or 'none'}"
        )
    return recipes


def _recipe(name: str, fit_options: Mapping[str, Any]) -> Method:
    return get_method(name, **{option: value for option, value in fit_options.items() if option in _options(name)})


def _options(name: str) -> set[str]:
    return {field.name for field in fields(METHODS[name].recipe)} if name in METHODS else set()


def _check_method(method: Any, reduced: Reduced, sensor: Sensor, device: str) -> None:
    if isinstance(method, type) or not isinstance(method, Sharpener):
        check_fit(reduced.cube, as_method(method, {}), sensor, device)
        return
    if method.sensor != sensor:
        other = " of another mtf" if method.sensor.protocol == sensor.protocol else ""
        raise InputError(
            f"the Sharpener {_label(method)} was fitted for the sensor {method.sensor.protocol!r}{other}, but the methods are "
            f"told {sensor.protocol!r}; fit it anew, give another protocol=, or state its sensor= to measure what that costs"
        )
    _judged_bands(reduced, method, device)  # which refuses a Sharpener of other bands, and computes nothing yet


def _judged_bands(reduced: Reduced, sharpener: Sharpener, device: str) -> xr.DataArray:
    """The estimate (time, band, y, x) of the reference, lazily."""
    bands = bands_by_gsd(reduced.cube)[reduced.gsd]
    return sharpen(reduced.cube, sharpener, sensor=sharpener.sensor, bands=bands, device=device)


def compare(reduced: Reduced, estimate: npt.NDArray[np.float32], *, crop: int) -> pd.DataFrame:
    """The metrics of an estimate (band, y, x) in reflectance: a row for each band, and one for all."""
    inner = (slice(None), *(slice(crop, size - crop) for size in estimate.shape[1:]))
    reference, estimate = reduced.reference[inner], estimate[inner]
    valid = np.isfinite(reference) & np.isfinite(estimate)
    names = bands_by_gsd(reduced.cube)[reduced.gsd]
    if not valid.all(axis=0).any():
        dead = ", ".join(name for name, pixels in zip(names, valid, strict=True) if not pixels.any())
        raise InputError(
            f"no pixel is valid in {f'the bands {dead}' if dead else 'all bands at once'} of both reference and estimate; "
            "choose another date or a clearer part, or leave such bands out"
        )
    rows = [_band_row(*parts) for parts in zip(names, reference, estimate, valid, strict=True)]
    everywhere = valid.all(axis=0)
    spectra = reference[:, everywhere], estimate[:, everywhere]
    together = {"band": "all"} | {name: float(np.mean([row[name] for row in rows])) for name in ("sre_db", "ssim", "uiqi")}
    together |= {
        "rmse": metrics.rmse(*spectra),
        "sam_deg": metrics.sam(*spectra),
        "ergas": metrics.ergas(*spectra, reduced.gsd // 10),
    }
    return pd.DataFrame([*rows, together]).assign(protocol=reduced.protocol, gsd=reduced.gsd)


def _band_row(
    band: str, reference: npt.NDArray[np.float32], estimate: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    pair = np.where(valid, reference, 0), np.where(valid, estimate, 0)
    return {
        "band": band,
        "sre_db": metrics.sre(reference[valid], estimate[valid]),
        "rmse": metrics.rmse(reference[valid], estimate[valid]),
        "ssim": metrics.ssim(*pair, valid=valid),
        "uiqi": metrics.uiqi(*pair, valid=valid),
        "sam_deg": np.nan,
        "ergas": np.nan,
    }


def _label(method: Method | Sharpener) -> str:
    """The name of the method, or that of its class where it has none in the table."""
    if isinstance(method, Sharpener):
        return str(getattr(method, "method", type(method).__name__))
    return str(getattr(method, "name", type(method).__name__))


def _labels(methods: Sequence[Method | Sharpener]) -> list[str]:
    """A label for each, numbered where several are alike."""
    labels = [_label(method) for method in methods]
    many, counted = Counter(labels), Counter[str]()
    numbered = []
    for label in labels:
        counted[label] += 1
        numbered.append(f"{label} #{counted[label]}" if many[label] > 1 else label)
    return numbered
