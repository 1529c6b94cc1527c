"""The command line: search, sharpen, fit, evaluate, info, demo."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from s2pipe.core.bands import BANDS, node_name
from s2pipe.core.errors import InputError, S2PipeError, StoreError, redact
from s2pipe.core.progress import stderr_console

if TYPE_CHECKING:
    import pandas as pd
    import pystac
    import xarray as xr
    from distributed.security import Security

    from s2pipe.inputs.files import SceneFile
    from s2pipe.methods import Sharpener

# Whatever takes long to import (torch, dask, rasterio) is imported in the commands that use it: `--help` must be quick.

app = typer.Typer(
    help="All Sentinel-2 bands at 10 m: from a STAC search to a sharpened Zarr store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they may hold signed URLs
)
out = Console()
err = stderr_console()

Catalog = Annotated[
    str, typer.Option(help="earth-search, planetary-computer, cdse, a STAC API URL, or a local catalog or item-collection file.")
]
Bbox = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(metavar="WEST SOUTH EAST NORTH", help="Area in degrees; default: wherever the catalog has scenes."),
]
DATETIME_HELP = "A day, 2026-06-21, a month, 2026-06, or an interval, 2026-06-01/2026-06-30."
Datetime = Annotated[str | None, typer.Option(help=DATETIME_HELP)]
Collection = Annotated[
    str | None, typer.Option(help="Collection of the catalog; default: sentinel-2-l2a of an API, all of a local file.")
]
MaxCloudCover = Annotated[float | None, typer.Option(help="Leave out scenes with more clouds than this, in percent.")]
Scene = Annotated[
    str,
    typer.Argument(
        metavar="SCENE",
        help="Folder of Bxx_<resolution>m.tif, .npz (r10m, r20m, r60m), .mat file of the papers, or cube in a Zarr store.",
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        help="reflectance = number * SCALE + OFFSET; default: 1e-4 of integers and .mat files, else 1. Zarr states its own."
    ),
]
Offset = Annotated[float | None, typer.Option(help="See --scale; default: 0.")]
Repair = Annotated[
    bool, typer.Option("--repair", help="First crop a scene whose resolutions are shifted by whole pixels, so that they fit.")
]
Weights20m = Annotated[str | None, typer.Option("--weights-20m", help="Of dsen2: its authors' HDF5 file for the 20 m bands.")]
Weights60m = Annotated[str | None, typer.Option("--weights-60m", help="Of dsen2: its authors' HDF5 file for the 60 m bands.")]
Weights = Annotated[
    str | None, typer.Option("--weights", help="Of mtf-resnet: a file of workflows/train_weights.py instead of its own weights.")
]
Steps = Annotated[int | None, typer.Option(min=0, help="Training steps, for methods that train; of mtf-resnet 0 by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random in the training.")]
Device = Annotated[str, typer.Option(help="Where networks run: auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[
    str, typer.Option(help="What networks compute in: float32, bfloat16, or auto, bfloat16 where the processor has it.")
]

DEGRADED_BY = {
    "centre": "a Gaussian matched to each band's MTF, centred on the block that a coarse pixel covers",
    "corner": "a Gaussian matched to each band's MTF, centred on the upper-left pixel of that block",
    "box": "a Gaussian of sigma 1/ratio and the block mean",
}
"""The sensors in words."""

FIGURES: tuple[tuple[str, str, str, Literal["highest", "lowest"]], ...] = (
    ("RMSE", "rmse", ".5f", "lowest"),
    ("SSIM", "ssim", ".4f", "highest"),
    ("UIQI", "uiqi", ".4f", "highest"),
    ("SAM", "sam_deg", ".2f", "lowest"),
    ("ERGAS", "ergas", ".2f", "lowest"),
)
"""Of the figures of all bands together: heading, column of the table of `evaluate`, how it is printed, and which is best."""

DEMO_SIZE_MIN = 504
"""A smaller scene has too few 60 m patches to train the demo's network on."""


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log decisions, such as dropped duplicates.")] = False,
) -> None:
    from rich.logging import RichHandler

    logger = logging.getLogger("s2pipe")
    logger.handlers = [RichHandler(console=err, show_path=False, show_time=False)]
    if verbose:
        logger.setLevel(logging.INFO)


def _say(text: str) -> None:
    """Print `text` as it is: no colours, no markup, no line breaks that would cut a path."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _clean_exit() -> Iterator[None]:
    """Turn s2pipe's own errors into one line on stderr and an exit code: 2 for bad input, 1 for the rest."""
    try:
        yield
    except S2PipeError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


@app.command()
def search(
    catalog: Catalog,
    bbox: Bbox = None,
    datetime: Datetime = None,
    collection: Collection = None,
    max_cloud_cover: MaxCloudCover = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most scenes to list.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the STAC items, unsigned, to this file; it serves as --catalog.")
    ] = None,
) -> None:
    """List the Sentinel-2 scenes that a catalog has for an area and a time."""
    with _clean_exit():
        from s2pipe.inputs.search import search as search_catalog

        items = search_catalog(
            catalog, bbox=bbox, datetime=datetime, collection=collection, max_cloud_cover=max_cloud_cover, limit=limit
        )
        out.print(_items_table(items))
        if out_file:
            try:
                items.save_object(str(out_file))
            except OSError as error:
                raise InputError(f"--out {out_file} cannot be written: {error.strerror}") from None
            _say(f"{_count(len(items), 'item')} written to {out_file}")


def _items_table(items: pystac.ItemCollection) -> Table:
    from s2pipe.inputs.items import item_datetime, item_tile
    from s2pipe.inputs.offsets import processing_baseline

    table = Table(title=_count(len(items), "item"))
    for column in ("item", "time (UTC)", "tile", "cloud %", "baseline"):
        table.add_column(column, justify="right" if column == "cloud %" else "left", overflow="fold")
    for item in items:
        cloud = item.properties.get("eo:cloud_cover")
        table.add_row(
            item.id,
            f"{item_datetime(item):%Y-%m-%d %H:%M:%S}",
            item_tile(item) or "?",
            "?" if cloud is None else f"{cloud:.1f}",
            processing_baseline(item) or "?",
        )
    return table


@app.command()
def sharpen(
    catalog: Catalog,
    datetime: Annotated[str, typer.Option(help=DATETIME_HELP)],
    store: Annotated[str, typer.Option("--out", help="Zarr store to write: a local path or an fsspec URL.")],
    bbox: Bbox = None,
    collection: Collection = None,
    max_cloud_cover: MaxCloudCover = None,
    method: Annotated[
        str, typer.Option(help="Sharpening method, `s2pipe info` lists them; or weights that `s2pipe fit` wrote.")
    ] = "mtf-resnet",
    bands: Annotated[list[str] | None, typer.Option(help="Bands to write, B05,B11 or repeated; default: all twelve.")] = None,
    steps: Steps = None,
    weights: Weights = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random in the training; default: 0.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="A dask scheduler's address, or local for a cluster here; default: threads."),
    ] = None,
    tls_ca_file: Annotated[
        str | None, typer.Option(help="Of --scheduler tls://...: PEM file of the authority; default: dask's configuration.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file of this client's certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    loader: Annotated[
        str, typer.Option(help="What builds the graph of reads, stackstac or odc; the pixels are the same.")
    ] = "stackstac",
    offset: Annotated[
        float | None, typer.Option(help="reflectance = DN * 1e-4 + OFFSET in the files, whatever the items say (0 or -0.1).")
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunk edge in 10 m pixels, a multiple of 6.")] = 1830,
    at_once: Annotated[
        int,
        typer.Option(
            "--tiles-at-once", min=1, help="MGRS tiles at work at once on a cluster, which sharpens some while one is fitted."
        ),
    ] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the groups of the store, instead of going on with what they have.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Write what a group lacks by a new fit, instead of the weights that it keeps.")
    ] = False,
    unsharded: Annotated[bool, typer.Option("--unsharded", help="Plain chunks, for readers that know no Zarr shards.")] = False,
) -> None:
    """Sharpen the scenes that a catalog has, to 10 m, into a Zarr store with a group for each MGRS tile (such as 33TWM_32633).

    What a group has already is kept: run it again after an interruption, or for later dates, which are added.
    """
    with _clean_exit():
        import s2pipe
        from s2pipe.core.precision import check_precision
        from s2pipe.engine.clusters import TLS_OPTIONS, tls_security
        from s2pipe.engine.worker import check_device
        from s2pipe.inputs.load import check_chunk_edge, check_loader
        from s2pipe.inputs.offsets import check_offset
        from s2pipe.inputs.search import signer_of
        from s2pipe.store.zarr_io import check_store

        start = time.perf_counter()
        if overwrite and refit:
            raise InputError("--overwrite fits anew anyway; leave out --refit")
        fit_options = _given(steps=steps, weights=weights)
        chosen = _method_or_weights(method, **fit_options)
        if not isinstance(chosen, str) and (refused := _given(steps=steps, weights=weights, seed=seed)):
            raise InputError(
                f"{method} is fitted already: leave out {' and '.join(f'--{name}' for name in refused)}, or fit anew"
            )
        wanted = _parse_bands(bands)
        check_device(device)
        check_precision(precision)
        check_chunk_edge(chunks)
        check_loader(loader)
        if offset is not None:
            check_offset(offset)
        security = tls_security(tls_ca_file, tls_cert, tls_key)
        if security is not None and scheduler in (None, "local"):
            raise InputError(f"{TLS_OPTIONS} are for a scheduler elsewhere: give --scheduler tls://host:8786 too")
        sign = signer_of(catalog)
        items = s2pipe.search(catalog, bbox=bbox, datetime=datetime, collection=collection, max_cloud_cover=max_cloud_cover)
        groups = s2pipe.group_items(items)
        for group in groups:
            check_store(store, group=group, overwrite=overwrite, resume=not overwrite)
        load = partial(
            s2pipe.load,
            bbox=bbox,
            bands=_bands_to_load(wanted, chosen),
            chunks=chunks,
            loader=loader,
            offset=offset,
            sign=sign,
        )

        def load_and_tell(group: str) -> xr.DataTree:
            cube = load(groups[group])
            err.print(f"[bold]{group}[/]: {_extent(cube)}", highlight=False)
            return cube

        with _cluster(scheduler, security), _chunks_told():
            s2pipe.sharpen_tiles(
                {group: partial(load_and_tell, group) for group in groups},
                store,
                at_once=at_once,
                method=chosen,
                bands=wanted,
                device=device,
                precision=precision,
                seed=seed or 0,
                overwrite=overwrite,
                refit=refit,
                shards=not unsharded,
                **fit_options,
            )
        _say(f"{redact(store)}: {', '.join(groups)}")
        _say(f"{_store_size(store)}{time.perf_counter() - start:.0f} s")


def _given(**options: int | str | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _method_or_weights(given: str, **options: Any) -> str | Sharpener:
    """As `_name_or_weights`, but a name must be that of a method that has these options."""
    from s2pipe.methods import get_method

    chosen = _name_or_weights(given)
    if isinstance(chosen, str):
        get_method(chosen, **options)
    return chosen


def _name_or_weights(given: str) -> str | Sharpener:
    """The Sharpener in the file that `given` is the path of; else `given`, a method's name."""
    from s2pipe.core.tensor_files import SUFFIX
    from s2pipe.methods import METHODS
    from s2pipe.methods.saving import load_sharpener
    from s2pipe.quality.evaluation import ALL

    if given.endswith(SUFFIX) or (given not in (*METHODS, ALL) and Path(given).is_file()):
        return load_sharpener(given)
    return given


def _parse_bands(given: list[str] | None) -> tuple[str, ...] | None:
    from s2pipe.core.cube import check_bands

    if not given:
        return None
    return check_bands(name for part in given for name in map(str.strip, part.split(",")) if name)


def _bands_to_load(wanted: tuple[str, ...] | None, method: str | Sharpener) -> list[str] | None:
    """Every band at the resolutions asked for and finer: methods use them all; and what a Sharpener was fitted with."""
    if wanted is None:
        return None
    used = (*wanted, *(() if isinstance(method, str) else method.bands_in))
    coarsest = max(BANDS[band].gsd for band in used)
    return [band.name for band in BANDS.values() if band.gsd <= coarsest]


@contextmanager
def _cluster(address: str | None, security: Security | None = None) -> Iterator[None]:
    """The dask cluster at `address`, a local one, or none."""
    if address is None:
        yield
        return
    from s2pipe.engine.clusters import connect, local_cluster

    with local_cluster() if address == "local" else connect(address, security):
        yield


@contextmanager
def _chunks_told() -> Iterator[None]:
    """Name the option where the library names the call that changes chunks."""
    try:
        yield
    except InputError as error:
        if "data.chunk(" in str(error):
            raise InputError(f"{error} (--chunks on the command line)") from None
        raise


def _extent(cube: xr.DataTree) -> str:
    fine = cube[node_name(10)]["reflectance"]
    return f"{fine.sizes['y']} x {fine.sizes['x']} px at 10 m, {_count(fine.sizes['time'], 'date')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _store_size(store: str) -> str:
    files = [path for path in Path(store).rglob("*") if path.is_file()]
    return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB, " if files else ""


@app.command()
def fit(
    scene: Scene,
    out_file: Annotated[Path, typer.Option("--out", help="File to write, ending in .safetensors; it serves as --method.")],
    method: Annotated[str, typer.Option(help="Sharpening method; `s2pipe info` lists them.")] = "mtf-resnet",
    sensor: Annotated[
        str, typer.Option("--sensor", "--protocol", help="What degraded the coarse bands: centre, corner or box.")
    ] = "centre",
    steps: Steps = None,
    weights: Weights = None,
    weights_20m: Weights20m = None,
    weights_60m: Weights60m = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where a training saves its state, and from where one that was interrupted goes on."),
    ] = None,
    repair: Repair = False,
    scale: Scale = None,
    offset: Offset = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Fit a method on a scene, and write the weights to a file for `sharpen` and `evaluate`."""
    with _clean_exit():
        import s2pipe
        from s2pipe.inputs.files import read_scene

        start = time.perf_counter()
        _check_weights_path(out_file, overwrite)
        cube = read_scene(scene, scale=scale, offset=offset).cube
        if repair:
            cube = s2pipe.repair_registration(cube)
        if checkpoint is not None:
            _make_checkpoint_folder(checkpoint)
        sharpener = s2pipe.fit(
            cube,
            method,
            sensor=s2pipe.Sensor.named(sensor),
            seed=seed,
            device=device,
            precision=precision,
            checkpoint=checkpoint,
            **_given(steps=steps, weights=weights, weights_20m=weights_20m, weights_60m=weights_60m),
        )
        s2pipe.save_sharpener(sharpener, out_file)
        _say(f"weights: {out_file}")
        _say(f"method:  {method}")
        _say(f"bands:   {' '.join(sharpener.bands_out)}, of {' '.join(sharpener.bands_in)}")
        _say(f"halo:    {sharpener.halo} px at 10 m")
        _say(f"sensor:  {sensor}")
        _say(f"{time.perf_counter() - start:.0f} s")


def _check_weights_path(path: Path, overwrite: bool) -> None:
    """Refuse what cannot be written before a long training, not after it."""
    from s2pipe.core.tensor_files import SUFFIX

    if path.suffix != SUFFIX:
        raise InputError(f"--out {path} must end in {SUFFIX}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"--out {path}: {path.parent} is no folder that can be written to")
    if path.exists() and not (overwrite and path.is_file()):
        raise InputError(f"--out {path} exists; give another, or --overwrite to replace a file")


def _make_checkpoint_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--checkpoint {folder} cannot be made: {error.strerror}") from None


@app.command()
def evaluate(
    scene: Scene,
    method: Annotated[
        list[str],
        typer.Option(
            help="Sharpening method, `s2pipe info` lists them, or weights that `s2pipe fit` wrote; repeat to compare. "
            "`all` stands for every method that can run; the others are named with the reason."
        ),
    ],
    protocol: Annotated[str, typer.Option(help="What degrades the scene: centre, corner or box.")] = "centre",
    gsd: Annotated[int, typer.Option(help="Resolution in metres of the bands that are judged, 20 or 60.")] = 20,
    crop: Annotated[int, typer.Option(help="Pixels left out beside each edge of the reference.")] = 2,
    sensor: Annotated[
        str | None, typer.Option(help="What the methods are told instead of the truth: centre, corner or box.")
    ] = None,
    steps: Steps = None,
    weights: Weights = None,
    weights_20m: Weights20m = None,
    weights_60m: Weights60m = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    repair: Repair = False,
    scale: Scale = None,
    offset: Offset = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Picture to write, such as out.png: SRE of each band, and a part of the scene with truth, results and errors.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a record for each method and band.")] = False,
) -> None:
    """Sharpen a scene one scale lower, where what was observed is the reference, and tell how well methods do.

    A file of the papers that is degraded already, and holds its reference, is judged by that.
    """
    with _clean_exit():
        import s2pipe
        from s2pipe.inputs.files import read_scene

        methods = [_name_or_weights(given) for given in method]
        read = read_scene(scene, scale=scale, offset=offset)
        if repair and read.reference is not None:
            raise InputError("--repair would crop the scene, but not its own reference; leave it out")
        scores = s2pipe.evaluate(
            s2pipe.repair_registration(read.cube) if repair else read.cube,
            methods,
            protocol=protocol,  # type: ignore[arg-type]  # evaluate refuses others
            gsd=gsd,
            crop=crop,
            sensor=None if sensor is None else s2pipe.Sensor.named(sensor),
            reference=read.reference,
            seed=seed,
            device=device,
            precision=precision,
            plot=plot,
            **_given(steps=steps, weights=weights, weights_20m=weights_20m, weights_60m=weights_60m),
        )
        if as_json:
            typer.echo(scores.to_json(orient="records"))
        else:
            _print_scores(scores, title=_what_was_judged(read, protocol=protocol, gsd=gsd, told=sensor))
            if plot is not None:
                _say(f"picture: {plot}")


def _what_was_judged(scene: SceneFile, *, protocol: str, gsd: int, told: str | None) -> str:
    from s2pipe.core.cube import encoding_of

    if scene.reference is None:
        degraded, reference = "degraded by", "what was observed"
    else:
        degraded, reference = "degraded in the file already, supposedly by", "the file's own reference"
    otherwise = "" if told in (None, protocol) else f"; the methods are told {told}"
    encoding = encoding_of(scene.cube)
    return (
        f"{redact(scene.name)}, protocol {protocol}, gsd {gsd}: all bands are {degraded} {DEGRADED_BY[protocol]}{otherwise}; "
        f"the {gsd} m bands, sharpened back, are held against {reference}; "
        f"reflectance = number * {encoding.scale:g} + {encoding.offset:g}"
    )


def _print_scores(scores: pd.DataFrame, *, title: str) -> None:
    """A row for each method, never cut: in a narrow terminal its lines wrap."""
    together = scores[scores["band"] == "all"].set_index("method")
    sre = scores.pivot(index="method", columns="band", values="sre_db").loc[together.index]
    ranked = ~together["in_sample"]
    table = Table("method", title=escape(title), title_justify="left", caption_justify="left", box=SIMPLE, padding=0)
    columns = {
        f"SRE\n{'mean' if band == 'all' else band}": marked(sre[band], ".2f", ranked, best="highest")
        for band in scores["band"].unique()
    }
    columns |= {heading: marked(together[name], form, ranked, best=best) for heading, name, form, best in FIGURES}
    columns["seconds"] = [Text(f"{seconds:.1f}") for seconds in together["seconds"]]
    for heading in columns:
        table.add_column(heading, justify="right")
    if remarked := bool(scores[["in_sample", "interpolated"]].any(axis=None)):
        table.add_column()
    for method, *row in zip(together.index, *columns.values(), strict=True):
        table.add_row(escape(method), *row, *([_remark(scores[scores["method"] == method])] if remarked else []))
    table.caption = "; ".join(_caption(scores, marked=ranked.sum() > 1))
    table.width = out.measure(table, options=out.options.update(width=1000)).maximum
    out.print(table, crop=False)
    for method, reason in scores.attrs["left_out"].items():
        _say(f"left out: {method}: {reason}")


def marked(values: pd.Series, form: str, ranked: pd.Series, *, best: Literal["highest", "lowest"]) -> list[Text]:
    """The values as printed, with a mark on the best of those that are ranked, and on the second best.

    Values that print alike share their place; where two are best, none is second. One alone gets no mark.
    """
    printed = values.map(lambda value: f"{value:{form}}")
    places = printed[ranked].astype(float).rank(method="min", ascending=best == "lowest").reindex(values.index)
    marks = {1: ("*", "bold"), 2: ("'", "underline")} if ranked.sum() > 1 else {}
    given = [marks.get(place, ("", "")) for place in places]
    return [Text(mark + text, style) for text, (mark, style) in zip(printed, given, strict=True)]


def _caption(scores: pd.DataFrame, *, marked: bool) -> Iterator[str]:
    yield "SRE in dB, RMSE in reflectance, SAM in degrees; seconds of fit and sharpening"
    if marked:
        yield "[bold]*best[/] and [underline]'second best[/] of each column"
    if scores["in_sample"].any():
        yield "in-sample: fitted on this very scene, so it has seen the reference and is not ranked"
    if scores["interpolated"].any():
        yield "interpolated: too little to be fitted on"


def _remark(rows: pd.DataFrame) -> str:
    interpolated = rows.loc[rows["interpolated"] & (rows["band"] != "all"), "band"]
    remarks = ["in-sample"] if rows["in_sample"].any() else []
    return ", ".join([*remarks, *([f"{' '.join(interpolated)} interpolated"] if len(interpolated) else [])])


@app.command()
def info(
    store: Annotated[str | None, typer.Argument(help="Tell what this Zarr store holds instead.")] = None,
) -> None:
    """Tell about this installation, its methods and the bands; or about a store that s2pipe wrote."""
    with _clean_exit():
        if store is None:
            _print_installation()
        else:
            _print_store(store)


def _print_installation() -> None:
    import platform

    import torch

    import s2pipe

    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    _say(f"s2pipe {s2pipe.__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    _say(f"devices: {', '.join(devices)}")
    out.print(_frame_table(s2pipe.list_methods().reset_index(), title="methods"))
    table = Table("band", "GSD m", "wavelength nm", "MTF at Nyquist", "asset keys", title="bands")
    for band in BANDS.values():
        table.add_row(band.name, str(band.gsd), f"{band.wavelength_nm:.1f}", f"{band.mtf_nyquist:.2f}", ", ".join(band.keys))
    out.print(table)


def _frame_table(frame: pd.DataFrame, *, title: str) -> Table:
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(column, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
    return table


def _print_store(store: str) -> None:
    import xarray as xr

    from s2pipe.store.zarr_io import list_results, open_zarr

    groups = list_results(store)
    if not groups:
        raise StoreError(f"{redact(store)} holds nothing that s2pipe wrote")
    for group in groups:
        try:
            data = open_zarr(store, group=group)
        except StoreError as error:  # one that was not written to its end
            _say(str(error))
            continue
        nodes = [data.to_dataset()] if isinstance(data, xr.DataArray) else [node.to_dataset() for node in data.children.values()]
        for node in nodes:
            array = node["reflectance"]
            table = Table("", "", show_header=False, title=group, title_justify="left")
            table.columns[1].overflow = "fold"
            for name, value in _facts(array):
                table.add_row(name, escape(value))
            out.print(table)


def _facts(array: xr.DataArray) -> Iterator[tuple[str, str]]:
    sizes = array.sizes
    yield "size", f"{_count(sizes['time'], 'date')}, {_count(sizes['band'], 'band')}, {sizes['y']} x {sizes['x']} px"
    yield "dtype", str(array.dtype)
    yield "bands", " ".join(array["band"].values)
    yield "times", ", ".join(str(time)[:19] for time in array["time"].values) if "time" in array.coords else "none"
    crs = array.rio.crs
    yield "CRS", crs.to_string() if crs else "none"
    for name in ("item_id", "platform", "processing_baseline"):
        if name in array.coords:
            yield name, ", ".join(map(str, array[name].values))
    yield from ((name, str(value)) for name, value in array.attrs.items())


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to, made if missing.")] = Path("s2pipe-demo"),
    size: Annotated[
        int, typer.Option(min=DEMO_SIZE_MIN, help="Edge of the simulated scene in 10 m pixels, a multiple of 6.")
    ] = 720,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each network of ssc-cnn.")] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Of the scene and of the training.")] = 0,
) -> None:
    """Sharpen a simulated scene from catalog to store, offline, and compare the methods with its known truth."""
    with _clean_exit():
        from s2pipe.methods.learned.lower_scale import SscCnn
        from s2pipe.simulation.demo import run_demo

        start = time.perf_counter()
        result = run_demo(folder, size=size, steps=steps, seed=seed, console=out)
        table = _frame_table(result.sre.rename_axis("band").reset_index(), title="SRE in dB against truth")
        for column in table.columns[1:]:
            column.justify = "right"
        table.rows[-1].style = "bold"
        out.print(table)
        _say(f"ssc-cnn: {steps} training steps for each network; the paper trains {SscCnn.steps}")
        _say(f"Zarr store: {result.store}")
        _say(f"picture:    {result.picture}")
        _say(f"{time.perf_counter() - start:.0f} s")
        mean = result.sre.loc["mean"]
        if mean["ssc-cnn"] <= mean["bicubic"]:
            raise S2PipeError("ssc-cnn is no better than bicubic: train longer (--steps), or this installation does not work")
        default = mean.pop("mtf-resnet")
        if default <= mean.max():
            raise S2PipeError(f"mtf-resnet is no better than {mean.idxmax()}: this installation does not work")
