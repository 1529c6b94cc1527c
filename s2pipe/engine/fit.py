"""Fitting a method on a scene: the caller's arguments, checked, and the fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard, get_args

import xarray as xr

from s2pipe.core.bands import BANDS
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import Cube
from s2pipe.core.errors import InputError
from s2pipe.core.precision import Precision, check_precision, choose_precision
from s2pipe.core.progress import Progress, progress_bar
from s2pipe.core.threads import fixed_threads
from s2pipe.engine.clusters import current_client, runs_on_gpus
from s2pipe.engine.halo import plan_axis
from s2pipe.engine.worker import check_device, choose_device
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.shifts import warn_if_misregistered
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import Method, Sharpener, get_method
from s2pipe.methods.base import FitContext
from s2pipe.physics.sensor import Sensor, as_sensor

log = logging.getLogger(__name__)

DEFAULT_METHOD = "mtf-resnet"


@dataclass(frozen=True, kw_only=True)
class FitArguments:
    """The caller's arguments of `s2pipe.sharpen`; None and "auto" where none is given.

    Raises
    ------
    InputError
        If a device or a precision is unknown.
    """

    method: str | Method | Sharpener = DEFAULT_METHOD
    sensor: Sensor | str | None = None
    seed: int | None = None
    device: str = "auto"
    precision: str = "auto"
    checkpoint: str | Path | None = None
    progress: Progress | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_device(self.device)
        check_precision(self.precision)

    def recipe(self) -> Method:
        """The recipe that is named, with its options, or that was given."""
        return as_method(self.method, self.options)

    def random_seed(self) -> int:
        """The seed that is given, or the default."""
        return 0 if self.seed is None else check_whole("seed", self.seed, least=0)

    def context(self) -> FitContext:
        """The context of a fit in this process: the device and the precision are decided here."""
        device = choose_device(self.device)
        return FitContext(
            sensor=as_sensor(self.sensor),
            seed=self.random_seed(),
            device=device,
            precision=choose_precision(self.precision, device),
            progress=self.progress,
            checkpoint=None if self.checkpoint is None else Path(self.checkpoint),
        )

    def fitted(self) -> Sharpener | None:
        """The Sharpener that was given in place of a method, in the precision that is named; None where a fit is needed.

        Raises
        ------
        InputError
            If an argument is given beside it that only a fit can use.
        """
        if not is_fitted(self.method):
            return None
        given = {"checkpoint": self.checkpoint, "seed": self.seed}
        if refused := (*self.options, *(name for name, value in given.items() if value is not None)):
            raise InputError(
                f"options {', '.join(refused)} cannot be set on a fitted Sharpener; give them to s2pipe.fit", argument=refused
            )
        _check_sensor(self.method, self.sensor)
        return in_precision(self.method, self.precision)


def fit(
    data: xr.DataTree | xr.DataArray,
    method: str | Method = DEFAULT_METHOD,
    *,
    sensor: Sensor | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    **fit_options: Any,
) -> Sharpener:
    """Fit a method on windows sampled from `data`; one Sharpener then serves all its chunks and dates.

    Parameters
    ----------
    data, method, sensor, seed, device, precision, **fit_options
        See `sharpen`.
    checkpoint : path, optional
        Folder in which a training saves its state every 100 steps, and from which it is resumed. The result is that of a training
        that was never interrupted; the same folder with more ``steps`` continues the training, but for mtf-resnet, whose learning
        rate depends on their number.
    progress : callable, optional
        Called at every training step with (label, step, steps, loss); default: a progress bar on stderr.

    Returns
    -------
    Sharpener

    Raises
    ------
    InputError
        If the data, a name or an option is not usable, or the data hold nodata only.

    Examples
    --------
    >>> sharpener = s2pipe.fit(cube, "ssc-cnn", steps=500, seed=1)  # doctest: +SKIP
    >>> s2pipe.save_sharpener(sharpener, "weights.safetensors")  # doctest: +SKIP
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
    return fit_cube(as_cube(data), arguments.recipe(), arguments.context())


def fit_cube(cube: Cube, method: Method, context: FitContext) -> Sharpener:
    """See `fit`."""
    if len(cube.arrays) == 1:
        raise InputError("the data have 10 m bands only, so there is nothing to sharpen; add 20 m or 60 m bands", argument="data")
    check_fit(cube, method, context.sensor)
    sample = Sample.of(cube, seed=context.seed)
    warn_if_misregistered(sample.windows, sample.bands)
    return fit_sample(sample, method, context)


def fit_for(cube: Cube, bands: Sequence[str], arguments: FitArguments) -> Sharpener | None:
    """Fit a method for these bands: it sees the 60 m bands only where one of them is asked for.

    None where only 10 m bands are asked for, which are copied. It is fitted here also where workers of a cluster have the GPUs.
    """
    recipe, coarse = arguments.recipe(), coarse_of(bands)
    if not coarse:
        return None
    if as_sensor(arguments.sensor).name == "centre":
        log.warning(
            "told the sensor 'centre', a method degrades the 10 m bands by their own MTF, as published tables do one scale "
            "lower; of Sentinel-2's own pixels the result is too sharp: leave sensor= out"
        )
    here = replace(arguments, device="auto") if runs_on_gpus(arguments.device) else arguments
    coarsest = max(BANDS[band].gsd for band in coarse)
    return fit_cube(cube.keep([gsd for gsd in cube.arrays if gsd <= coarsest]), recipe, here.context())


def fit_sample(sample: Sample, method: Method, context: FitContext) -> Sharpener:
    """Fit on windows in memory; see `fit`."""
    with fixed_threads(), progress_bar() if context.progress is None else nullcontext(context.progress) as report:
        return method.fit(sample, replace(context, progress=report))


def check_fit(cube: Cube, method: Method, sensor: Sensor) -> None:
    """Refuse, before anything is read, chunks the method cannot work on."""
    halo = method.halo(cube.arrays, sensor)
    for axis in ("y", "x"):
        plan_axis(cube.fine, axis, halo)


def check_runs_here(sharpener: Sharpener, device: str) -> None:
    """Refuse a Sharpener that this process cannot compute, if this process is to compute it."""
    if device in ("auto", "cpu") and current_client() is None:  # a device that is named may be that of another process
        sharpener.check_runs_on(choose_device(device))


def in_precision(sharpener: Sharpener, precision: str) -> Sharpener:
    """A fitted Sharpener that computes in the precision named; "auto" leaves it its own."""
    named: dict[str, Precision] = {name: name for name in get_args(Precision)}
    return sharpener.in_precision(named[precision]) if check_precision(precision) in named else sharpener


def as_method(method: object, options: dict[str, Any]) -> Method:
    """The recipe of a name with these options, or the recipe that was given."""
    if isinstance(method, str):
        return get_method(method, **options)
    if isinstance(method, type) or not isinstance(method, Method):
        raise InputError(
            f"got {method!r}; give a method's name, a Method (an instance, such as Glp()) or a Sharpener, with all members that "
            "these have in s2pipe.methods.base",
            argument="method",
        )
    if options:
        raise InputError(
            f"options {', '.join(options)} are for a method given by name; set them on the {type(method).__name__} instead",
            argument=tuple(options),
        )
    return method


def is_fitted(method: object) -> TypeGuard[Sharpener]:
    """Whether it is a Sharpener, to be used as it is, and not a method's name or a recipe."""
    return not isinstance(method, type) and isinstance(method, Sharpener)


def coarse_of(bands: Sequence[str]) -> list[str]:
    """Those of the bands that are to be sharpened."""
    return [band for band in bands if BANDS[band].gsd > 10]


def _check_sensor(sharpener: Sharpener, sensor: Sensor | str | None) -> None:
    fitted = sharpener.sensor
    if sensor is None and fitted.name != "matched":
        log.warning(
            "the Sharpener was fitted for the sensor %r, which is not that of Sentinel-2's own pixels; results may be "
            "shifted, or too sharp: give sensor= to confirm it",
            fitted.name,
        )
    if sensor is not None and (told := as_sensor(sensor)) != fitted:
        other = " of another mtf" if told.name == fitted.name else ""
        raise InputError(
            f"the Sharpener was fitted for the sensor {fitted.name!r}{other}, not {told.name!r}; fit again", argument="sensor"
        )
