"""The top of it: sharpen a cube, and fit the Sharpener that does."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

import xarray as xr

from s2pipe.core.bands import BANDS, node_name
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import DIMS, PER_DATE_COORDS, bands_by_gsd, check_bands, encoding_of, nodes
from s2pipe.core.errors import InputError
from s2pipe.core.precision import check_precision, choose_precision
from s2pipe.core.progress import Progress, progress_bar
from s2pipe.core.threads import fixed_threads
from s2pipe.engine.clusters import current_client, runs_on_gpus
from s2pipe.engine.halo import plan_axis, sharpen_chunks
from s2pipe.engine.worker import check_device, choose_device
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.shifts import warn_if_misregistered
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import Method, Sharpener, get_method
from s2pipe.methods.base import FitContext, TorchSharpener
from s2pipe.physics.sensor import Sensor, as_sensor

log = logging.getLogger(__name__)


def sharpen(
    data: xr.DataTree | xr.DataArray,
    method: str | Method | Sharpener = "mtf-resnet",
    *,
    sensor: Sensor | str | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
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
        What degraded the coarse bands, or its name: ``"centre"``, ``"corner"`` or ``"box"``; default: the block-centred MTF
        operator.
    bands : sequence of str, optional
        Bands to return; default: all of `data`. Without a 60 m band among them the 60 m bands are not used either.
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
    seed : int
        Everything random in the fit follows it: equal weights on CPUs of one kind, however many threads there are; nearly
        equal ones on a GPU.
    checkpoint, progress
        See `fit`.
    **fit_options
        Options of the method, such as ``steps=500`` of ssc-cnn.

    Returns
    -------
    xarray.DataArray
        ``reflectance`` (time, band, y, x) at 10 m, bands in ESA's order, in the dtype, units and nodata of `data`. A sharpened
        pixel is valid where its own coarse pixel and all 10 m bands are; 10 m bands are copied. ``attrs`` say how it
        was made (``s2pipe_*``).

    Raises
    ------
    InputError
        If the data, a name, an option or a chunk size is not usable.
    """
    check_device(device)
    check_precision(precision)
    cube = as_cube(data)
    wanted = bands_wanted(cube, bands)
    if is_fitted(method):
        _refuse_fit_arguments(method, sensor, checkpoint, fit_options)
        sharpener = in_precision(method, precision) if _coarse(wanted) else None
    else:
        sharpener = fit_for(
            cube,
            wanted,
            as_method(method, fit_options),
            sensor=sensor,
            seed=seed,
            device=device,
            precision=precision,
            checkpoint=checkpoint,
            progress=progress,
        )
    if sharpener is not None:
        _check_sharpener(sharpener, _all_bands(cube), _coarse(wanted))
        if device in ("auto", "cpu") and isinstance(sharpener, TorchSharpener) and current_client() is None:
            # a device that is named may be that of another process, which says so itself
            sharpener.check_runs_on(choose_device(device))
    used = {10} | {BANDS[band].gsd for band in (*wanted, *(sharpener.bands_in if sharpener else ()))}
    cube = _keep(cube, used)
    numbers = sharpen_chunks(cube, sharpener, wanted, device=device)
    return _label(numbers, cube, wanted, sharpener)


def fit_for(cube: xr.DataTree, bands: Sequence[str], method: Method, *, device: str, **options: Any) -> Sharpener | None:
    """Fit a method for these bands, with the options of `fit`: it sees the 60 m bands only where one of them is asked for.

    None where only 10 m bands are asked for, which are copied. It is fitted here also where workers of a cluster have the GPUs.
    """
    coarse = _coarse(bands)
    if not coarse:
        return None
    device = "auto" if runs_on_gpus(device) else device
    coarsest = max(BANDS[band].gsd for band in coarse)
    return fit(_keep(cube, [gsd for gsd in nodes(cube) if gsd <= coarsest]), method, device=device, **options)


def _coarse(bands: Sequence[str]) -> list[str]:
    return [band for band in bands if BANDS[band].gsd > 10]


def fit(
    data: xr.DataTree | xr.DataArray,
    method: str | Method = "mtf-resnet",
    *,
    sensor: Sensor | str | None = None,
    seed: int = 0,
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
        Folder in which a training saves its state every 100 steps, and whose state it goes on from if there is one. The
        result is that of a training that was never interrupted; the same folder with more ``steps`` trains on, but for
        mtf-resnet, whose learning rate follows their number.
    progress : callable, optional
        Called at every training step with (label, step, steps, loss); default: a progress bar on stderr.

    Returns
    -------
    Sharpener

    Raises
    ------
    InputError
        If the data, a name or an option is not usable, or the data hold nodata only.
    """
    cube = as_cube(data)
    method = as_method(method, fit_options)
    if not any(gsd > 10 for gsd in nodes(cube)):
        raise InputError("the data have 10 m bands only, so there is nothing to sharpen; add 20 m or 60 m bands")
    context = fit_context(
        sensor=as_sensor(sensor), seed=seed, device=device, precision=precision, checkpoint=checkpoint, progress=progress
    )
    check_fit(cube, method, context.sensor)
    sample = Sample.of(cube, seed=context.seed)
    warn_if_misregistered(sample.windows, sample.bands)
    return fit_sample(sample, method, context)


def fit_context(
    *, sensor: Sensor, seed: int, device: str, precision: str, progress: Progress | None, checkpoint: str | Path | None = None
) -> FitContext:
    """What a fit is told, with the device and the precision that these stand for in this process, which is decided here."""
    chosen = choose_device(device)
    return FitContext(
        sensor=sensor,
        seed=check_whole("seed", seed, least=0),
        device=chosen,
        precision=choose_precision(precision, chosen),
        progress=progress,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )


def check_fit(cube: xr.DataTree, method: Method, sensor: Sensor) -> None:
    """Refuse, before anything is read, chunks the method cannot work on. A recipe from elsewhere may not know its halo yet."""
    halo = method.halo(nodes(cube), sensor) if hasattr(method, "halo") else 0
    for axis in ("y", "x"):
        plan_axis(nodes(cube)[10], axis, halo)


def fit_sample(sample: Sample, method: Method, context: FitContext) -> Sharpener:
    """Fit on windows in memory; see `fit`."""
    with fixed_threads(), progress_bar() if context.progress is None else nullcontext(context.progress) as report:
        return method.fit(sample, replace(context, progress=report))


def in_precision(sharpener: Sharpener, precision: str) -> Sharpener:
    """A fitted Sharpener that computes in the precision named; "auto" leaves it its own."""
    if check_precision(precision) == "auto":
        return sharpener
    if not isinstance(sharpener, TorchSharpener):
        raise InputError(f"precision={precision!r} cannot be set on a {type(sharpener).__name__}; leave it out")
    return sharpener.in_precision("bfloat16" if precision == "bfloat16" else "float32")


def as_method(method: Any, options: dict[str, Any]) -> Method:
    """The recipe of a name with these options, or the recipe that was given."""
    if isinstance(method, str):
        return get_method(method, **options)
    if isinstance(method, type) or not hasattr(method, "fit"):
        raise InputError(f"got {method!r}; give a method's name, a Method (an instance, such as Glp()) or a Sharpener")
    if options:
        raise InputError(f"options {', '.join(options)} go with a method's name; set them on the {type(method).__name__} instead")
    recipe: Method = method
    return recipe


def is_fitted(method: Any) -> TypeGuard[Sharpener]:
    """Whether it is a Sharpener, to be used as it is, and not a method's name or a recipe."""
    return not isinstance(method, type) and isinstance(method, Sharpener)


def bands_wanted(cube: xr.DataTree, bands: Sequence[str] | None) -> tuple[str, ...]:
    """The bands asked for, in ESA's order, or all that the cube has; InputError where it lacks one."""
    return check_bands(bands if bands is not None else _all_bands(cube), _all_bands(cube))


def _all_bands(cube: xr.DataTree) -> tuple[str, ...]:
    present = {band for bands in bands_by_gsd(cube).values() for band in bands}
    return tuple(band for band in BANDS if band in present)


def _refuse_fit_arguments(
    sharpener: Sharpener, sensor: Sensor | str | None, checkpoint: str | Path | None, fit_options: dict[str, Any]
) -> None:
    if options := [*fit_options, *(["checkpoint"] if checkpoint is not None else [])]:
        raise InputError(f"options {', '.join(options)} cannot be set on a fitted Sharpener; give them to s2pipe.fit")
    if sensor is None and sharpener.sensor.name != "centre":
        log.warning(
            "the Sharpener was fitted for the sensor %r, which is not what Sentinel-2's own pixels come from; results may be "
            "shifted: say sensor= to state that you mean it",
            sharpener.sensor.name,
        )
    if sensor is not None and (told := as_sensor(sensor)) != sharpener.sensor:
        other = " of another mtf" if told.name == sharpener.sensor.name else ""
        raise InputError(
            f"the Sharpener was fitted for the sensor {sharpener.sensor.name!r}{other}, not {told.name!r}; fit again",
            argument="sensor",
        )


def _check_sharpener(sharpener: Sharpener, available: Sequence[str], coarse: Sequence[str]) -> None:
    if missing := [band for band in sharpener.bands_in if band not in available]:
        raise InputError(f"the Sharpener needs bands {', '.join(missing)}, which the data lack; they have {', '.join(available)}")
    if strange := [band for band in coarse if band not in sharpener.bands_out]:
        raise InputError(
            f"the Sharpener does not make bands {', '.join(strange)} but {', '.join(sharpener.bands_out)}; "
            "fit again, or ask for fewer bands="
        )


def _keep(cube: xr.DataTree, gsds: Collection[int]) -> xr.DataTree:
    """The cube with its nodes of these resolutions only."""
    return xr.DataTree.from_dict({node_name(gsd): array.to_dataset() for gsd, array in nodes(cube).items() if gsd in gsds})


def _label(numbers: Any, cube: xr.DataTree, bands: Sequence[str], sharpener: Sharpener | None) -> xr.DataArray:
    fine = nodes(cube)[10]
    names = [name for name in ("time", "y", "x", "spatial_ref", *PER_DATE_COORDS) if name in fine.coords]
    result = xr.DataArray(
        numbers,
        dims=DIMS,
        coords={"band": list(bands)} | {name: fine.coords[name].variable for name in names},
        name="reflectance",
        attrs=encoding_of(cube).attrs() | _provenance(sharpener),
    )
    if "spatial_ref" in result.coords:
        result.encoding["grid_mapping"] = "spatial_ref"
    return result


def _provenance(sharpener: Sharpener | None) -> dict[str, Any]:
    """Flat attributes, as stores can hold them."""
    stated: dict[str, Any] = {"version": version("s2pipe")}
    if sharpener is not None:
        stated |= getattr(sharpener, "provenance", dict)()
    return {f"s2pipe_{key}": json.dumps(value) if isinstance(value, dict) else value for key, value in stated.items()}
