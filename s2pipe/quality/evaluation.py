"""Wald's protocol: the scene one scale lower, where what the sensor saw is the reference."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from s2pipe.core.checks import check_positive, check_whole
from s2pipe.core.errors import InputError, S2PipeError, errors_about
from s2pipe.core.progress import Progress, progress_bar
from s2pipe.core.types import AnyArray
from s2pipe.engine.fit import FitArguments, as_method, check_fit, fit_sample, in_precision, is_fitted
from s2pipe.engine.sharpening import sharpen_cube
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.shifts import warn_if_misregistered
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import METHODS, Method, Sharpener, entry_of, get_method
from s2pipe.methods.base import FitContext
from s2pipe.physics.sensor import Sensor, as_sensor
from s2pipe.quality.native_noise import native_noise
from s2pipe.quality.plot import busiest_part, check_picture_path, save_evaluation
from s2pipe.quality.reduced import Noise, Reduced, reductions, with_reference
from s2pipe.quality.scores import compare

log = logging.getLogger(__name__)

NATIVE = "native"
"""In place of a noise level: that of the scene."""

ALL = "all"
"""In place of a method's name: every method of the table that can run."""

COLUMNS = (
    "method", "sensor", "gsd", "band", "sre_db", "rmse", "ssim", "uiqi", "sam_deg", "ergas", "seconds", "in_sample",
    "interpolated",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method that is to be judged.

    Attributes
    ----------
    label : str
        Its name in the table.
    method : Method or Sharpener
    required : bool
        Whether an error of it is raised; else it is left out.
    """

    label: str
    method: Method | Sharpener
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a method made of a reduced scene, and how good that is.

    Attributes
    ----------
    label : str
    scores : pandas.DataFrame
        The rows of the table of `evaluate`.
    estimate : ndarray, (band, y, x)
        What it made of the bands of the reference, float32 reflectance with NaN.
    """

    label: str
    scores: pd.DataFrame
    estimate: npt.NDArray[np.float32]


def evaluate(
    data: xr.DataTree | xr.DataArray,
    methods: str | Method | Sharpener | Sequence[str | Method | Sharpener],
    *,
    sensor: Sensor | str = "matched",
    told: Sensor | str | None = None,
    gsd: int = 20,
    crop: int = 2,
    reference: AnyArray | None = None,
    noise: str | float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    plot: str | Path | None = None,
    **fit_options: Any,
) -> pd.DataFrame:
    """Sharpen the scene one scale lower, and compare the results with what was observed (Wald's protocol).

    All bands are degraded by the ratio of `gsd`; the methods, fitted on the degraded bands alone, sharpen them back. They get
    the 60 m bands where the scene has them. The scene is cropped at the right and the bottom so that it can be degraded. Figures
    are of reflectance, which a storage offset does not inflate, where both reference and estimate are valid.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        One date of a scene, as for `sharpen`.
    methods : str, Method, Sharpener, or a list or tuple of these
        Names and recipes are fitted on the degraded scene. A fitted Sharpener is used as it is; one that was fitted on this
        very scene, and so has learned from the reference, is marked in the column ``in_sample``. Bands that a method interpolated
        because the scene had too little to fit it on are marked in the column ``interpolated``. The name ``"all"`` means
        every method of `list_methods` that is not named beside it. One of these that cannot run on this scene, or not without
        options, is left out, and a warning says why; a method that is named raises its error.
    sensor : Sensor or str
        What degrades the scene, or its name: ``"matched"``, ``"centre"``, ``"corner"`` or ``"box"``. Under ``"matched"`` each
        group of bands of like MTF is a run of its own, in which finer bands are degraded by the MTF of that group.
    told : Sensor or str, optional
        The sensor that the methods are told instead of `sensor`: shows what a wrong statement costs. Default: `sensor`.
    gsd : {20, 60}
        Resolution of the bands that are judged.
    crop : int
        Pixels left out beside each edge of the reference.
    reference : ndarray, (band, y, x), optional
        Of a scene that is degraded already, by the ratio of `gsd` and by `sensor`: its bands of `gsd` as observed, on the
        grid of its 10 m bands and in the same numbers (DN or reflectance). The scene is then neither degraded nor cropped.
    noise : {"native"} or float, optional
        Degrading averages noise away, and what it leaves flatters methods that sharpen noise too. ``"native"``: each band's
        noise is measured on the scene, and the degraded bands get back what degrading took. A number: the same of white noise
        of this standard deviation, in reflectance, in all bands; with `reference`, it is added as it is. Default: none is added.
    seed, device, precision
        As for `sharpen`.
    progress : callable, optional
        As for `sharpen`; also called when a method begins, as ``("3 of 17: atprk", 0, 1, None)``, and with 1 when it ends.
    plot : path, optional
        Picture to write, of a type that matplotlib knows by the suffix (``.png``): the SRE of every method and band, and a
        part of the scene with truth, results and errors. An existing file is replaced.
    **fit_options
        Options such as ``steps=500``, given to every method named here, or by ``"all"``, that has them.

    Returns
    -------
    pandas.DataFrame
        A row for each method and band, and one with ``band="all"``. Columns: ``method``, ``sensor``, ``gsd``, ``band``,
        ``sre_db`` (dB), ``rmse`` (reflectance), ``ssim``, ``uiqi``, ``sam_deg`` (degrees), ``ergas``, ``seconds`` (fit and
        sharpening), ``in_sample``, ``interpolated``. On the rows of all bands SRE, SSIM and UIQI are means over the bands, RMSE
        is that of all bands together; SAM and ERGAS are there only. ``attrs["left_out"]`` is a dict of the methods that were
        left out, with the reasons; ``attrs["noise"]`` one of the standard deviations of the scene's noise, by band, or None.

    Raises
    ------
    InputError
        If an argument is not accepted, the scene is too small, has several dates or no band of `gsd`, its reference has another
        shape, a Sharpener was fitted for another sensor, or no method of ``"all"`` can run.

    Examples
    --------
    >>> table = s2pipe.evaluate(cube, ["bicubic", "glp"], sensor="box", told="centre")  # doctest: +SKIP
    >>> table[table["band"] == "all"].set_index("method")["sre_db"]  # doctest: +SKIP
    """
    if plot is not None:
        check_picture_path(plot)
    cube = as_cube(data)
    operator = as_sensor(sensor)
    stated = as_sensor(told, default=operator, argument="told")
    context = FitArguments(sensor=stated, seed=seed, device=device, precision=precision, progress=progress).context()
    left_out: dict[str, str] = {}
    given: list[Any] = list(methods) if isinstance(methods, (list, tuple)) else [methods]
    candidates = [_in_precision(candidate, precision) for candidate in _candidates(given, fit_options, left_out)]
    sample = Sample.of(cube, seed=context.seed)
    warn_if_misregistered(sample.windows, sample.bands)
    present = _noise(noise, sample, context.seed, measurable=reference is None)
    if reference is None:
        reduced = reductions(cube, operator, gsd, noise=present)
    else:
        reduced = [with_reference(cube, reference, operator, gsd, noise=present)]
    truth = None if plot is None else busiest_part(_image(reduced[0], reduced[0].reference))
    tables, parts = [], {}
    for judged in judge(reduced, candidates, context, crop=crop, device=device, left_out=left_out):
        tables.append(judged.scores)
        if truth is not None:  # estimates may be large: only the part that is drawn is kept
            parts[judged.label] = _image(reduced[0], judged.estimate).reindex_like(truth)
    if not tables:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in left_out.items())
        raise InputError(f"no method can run on this scene: {reasons}", argument=("methods", "data"))
    scores = pd.concat(tables, ignore_index=True)
    scores.attrs |= {"left_out": left_out, "noise": None if present is None else dict(present.levels)}
    if plot is not None and truth is not None:
        save_evaluation(plot, scores, truth, parts)
    return scores


def _noise(noise: object, sample: Sample, seed: int, *, measurable: bool) -> Noise | None:
    """What the scene has, or is given."""
    if noise is None:
        return None
    if noise == NATIVE and measurable:
        return Noise(levels=native_noise(sample), seed=seed)
    if isinstance(noise, str):
        wrong = "cannot be measured on a scene that is degraded already" if noise == NATIVE else "is no noise"
        raise InputError(
            f"noise={noise!r} {wrong}; give {NATIVE!r} without reference=, a standard deviation in reflectance such as 0.0005, "
            "or None",
            argument="noise",
        )
    check_positive("noise", noise)
    level = float(cast(float, noise))
    return Noise(levels={band: level for bands in sample.bands.values() for band in bands}, seed=seed)


def score(
    reduced: Reduced,
    methods: Sequence[Method | Sharpener],
    *,
    crop: int = 2,
    told: Sensor,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `evaluate` for a scene that is reduced already."""
    context = FitArguments(sensor=told, seed=seed, device=device, precision=precision, progress=progress).context()
    candidates = _numbered([_in_precision(Candidate(label=_label(method), method=method), precision) for method in methods])
    judged = judge([reduced], candidates, context, crop=crop, device=device, left_out={})
    return pd.concat([result.scores for result in judged], ignore_index=True)


def judge(
    reduced: Sequence[Reduced],
    candidates: Sequence[Candidate],
    context: FitContext,
    *,
    crop: int,
    device: str,
    left_out: dict[str, str],
) -> Iterator[Judged]:
    """Fit and judge the candidates one after another, once all have been checked, on each of the reductions of a scene.

    Those that cannot run and are not required are entered in `left_out`, with the reason.
    """
    crop = check_whole("crop", crop, least=0)
    height, width = reduced[0].reference.shape[1:]
    if min(height, width) <= 2 * crop:
        raise InputError(f"crop={crop} leaves nothing of a reference of {height} x {width} px; give less", argument="crop")
    ready = []
    for candidate in candidates:
        with _leaving_out(candidate.label, left_out, unless=candidate.required):
            for one in reduced:
                _check_method(candidate.method, one, context.sensor, device)
            ready.append(candidate)
    samples = [replace(Sample.of(one.cube, seed=context.seed), gsds=(one.gsd,)) for one in reduced]
    with progress_bar() if context.progress is None else nullcontext(context.progress) as report:
        for number, candidate in enumerate(ready, start=1):
            running = f"{number} of {len(ready)}: {candidate.label}"
            report(running, 0, 1, None)
            with _leaving_out(candidate.label, left_out, unless=candidate.required):
                yield _judge(candidate, reduced, samples, replace(context, progress=report), crop=crop, device=device)
            report(running, 1, 1, None)


@contextmanager
def _leaving_out(label: str, left_out: dict[str, str], *, unless: bool) -> Iterator[None]:
    """A method that fails within the block is entered in `left_out` and warned of, unless its error is to be raised."""
    try:
        yield
    except S2PipeError as error:
        if unless:
            raise
        log.warning("%s is left out: %s", label, error)
        left_out[label] = str(error)


def _judge(
    candidate: Candidate, reduced: Sequence[Reduced], samples: Sequence[Sample], context: FitContext, *, crop: int, device: str
) -> Judged:
    start = time.perf_counter()
    estimate = np.full_like(reduced[0].reference, np.nan)
    in_sample, interpolated = False, set[str]()
    method = candidate.method
    for one, sample in zip(reduced, samples, strict=True):
        given = method.one_scale_lower(one.gsd // 10) if is_fitted(method) else None
        sharpener = given or fit_sample(sample, as_method(method, {}), context)
        rows = [one.cube.bands[one.gsd].index(band) for band in one.scored]
        estimate[rows] = _judged_bands(one, sharpener, device).compute().values[0]
        in_sample |= bool(np.isin(sharpener.fingerprint, one.fingerprint).any())
        interpolated |= {band for band in sharpener.bicubic_bands if band in one.scored}
    seconds = time.perf_counter() - start
    scores = compare(reduced[0], estimate, crop=crop)
    marked = scores["band"].isin(interpolated) | (scores["band"] == "all") & bool(interpolated)
    scores = scores.assign(method=candidate.label, seconds=seconds, in_sample=in_sample, interpolated=marked)
    return Judged(label=candidate.label, scores=scores[list(COLUMNS)], estimate=estimate)


def _candidates(
    methods: Sequence[str | Method | Sharpener], fit_options: Mapping[str, object], left_out: dict[str, str]
) -> list[Candidate]:
    """What was given, `ALL` as the names that it stands for, and each name as its recipe, with those of the options it has."""
    if not methods:
        raise InputError(
            f"methods is empty; give names, of {', '.join(METHODS)}, {ALL!r}, Methods or Sharpeners", argument="methods"
        )
    named = [method for method in methods if isinstance(method, str)]
    candidates = []
    for method in methods:
        if not isinstance(method, str):
            candidates.append(Candidate(label=_label(method), method=method))
        elif method != ALL:
            entry_of(method, argument="methods")
            candidates.append(Candidate(label=method, method=get_method(method, **_own(fit_options, method))))
        else:
            for name in [name for name in METHODS if name not in named]:
                own = _own(fit_options, name)
                # a recipe that refuses an option it was given is the caller's mistake; one that lacks an option cannot run
                with _leaving_out(name, left_out, unless=bool(own)):
                    candidates.append(Candidate(label=name, method=get_method(name, **own), required=False))
    _refuse_unknown(fit_options, METHODS if ALL in named else named)
    return _numbered(candidates)


def _own(fit_options: Mapping[str, object], name: str) -> dict[str, object]:
    """Those of the options that the method called `name` has."""
    return {option: value for option, value in fit_options.items() if option in _options(name)}


def _refuse_unknown(fit_options: Mapping[str, object], names: Collection[str]) -> None:
    accepted = {option for name in names for option in _options(name)}
    if unknown := [option for option in fit_options if option not in accepted]:
        raise InputError(
            f"none of the methods named ({', '.join(names) or 'none'}) has the option {', '.join(map(repr, unknown))}; "
            f"their options are {', '.join(sorted(accepted)) or 'none'}",
            argument=tuple(unknown),
        )


def _options(name: str) -> set[str]:
    return set(METHODS[name].options) if name in METHODS else set()


def _in_precision(candidate: Candidate, precision: str) -> Candidate:
    return replace(candidate, method=in_precision(candidate.method, precision)) if is_fitted(candidate.method) else candidate


def _check_method(method: Method | Sharpener, reduced: Reduced, sensor: Sensor, device: str) -> None:
    if isinstance(method, type) or not isinstance(method, Sharpener):
        with errors_about("methods"):
            recipe = as_method(method, {})
        check_fit(reduced.cube, recipe, sensor)
        return
    if method.sensor != sensor:
        other = " of another mtf" if method.sensor.name == sensor.name else ""
        raise InputError(
            f"the Sharpener {_label(method)} was fitted for the sensor {method.sensor.name!r}{other}, but the methods are "
            f"told {sensor.name!r}; fit it anew, give another sensor=, or state its own as told= to measure what that costs",
            argument=("sensor", "told"),
        )
    _judged_bands(reduced, method, device)  # which refuses a Sharpener of other bands, and computes nothing yet


def _judged_bands(reduced: Reduced, sharpener: Sharpener, device: str) -> xr.DataArray:
    """The estimate (time, band, y, x) of the bands that are scored, lazily."""
    return sharpen_cube(reduced.cube, reduced.scored, sharpener, device=device)


def _image(reduced: Reduced, pixels: npt.NDArray[np.float32]) -> xr.DataArray:
    """Pixels (band, y, x) on the grid of the reference, with their bands' names and their coordinates."""
    bands = list(reduced.cube.bands[reduced.gsd])
    _, height, width = pixels.shape
    return xr.DataArray(pixels, dims=("band", "y", "x"), coords={"band": bands, "y": range(height), "x": range(width)})


def _label(method: Method | Sharpener) -> str:
    if is_fitted(method):
        return method.method
    with errors_about("methods"):
        return as_method(method, {}).name


def _numbered(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same with their labels numbered where several are alike."""
    many, counted = Counter(candidate.label for candidate in candidates), Counter[str]()
    numbered = []
    for candidate in candidates:
        label = candidate.label
        counted[label] += 1
        numbered.append(replace(candidate, label=f"{label} #{counted[label]}") if many[label] > 1 else candidate)
    return numbered
