"""The command line: search, sharpen, fit, evaluate, info, demo."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2pipe.cli.arguments import (
    bands_to_load,
    check_weights_path,
    cluster_at,
    extent_of,
    make_checkpoint_folder,
    method_or_weights,
    name_or_weights,
    number_or_word,
    options_given,
    parse_bands,
    reference_of,
    store_size,
)
from s2pipe.cli.console import Commands, counted, err, out, say
from s2pipe.cli.options import (
    DATETIME_HELP,
    Bbox,
    Catalog,
    Collection,
    Datetime,
    Device,
    MaxCloudCover,
    Noise,
    Offset,
    Precision,
    Repair,
    Scale,
    Scene,
    Seed,
    Steps,
    Weights,
    Weights20m,
    Weights60m,
)
from s2pipe.cli.tables import frame_table, items_table, print_installation, print_scores, print_store, what_was_judged
from s2pipe.core.errors import InputError, S2PipeError, redact

if TYPE_CHECKING:
    import xarray as xr

# What takes long to import (torch, dask, rasterio) is imported in the commands that use it: `--help` must be quick.

app = typer.Typer(
    cls=Commands,
    help="All Sentinel-2 bands at 10 m: from a STAC search to a sharpened Zarr store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they may hold signed URLs
)

DEMO_SIZE_MIN = 120
"""A smaller scene has too few pixels for a picture of it."""


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log decisions, such as dropped duplicates.")] = False,
) -> None:
    from rich.logging import RichHandler

    logger = logging.getLogger("s2pipe")
    logger.handlers = [RichHandler(console=err, show_path=False, show_time=False)]
    if verbose:
        logger.setLevel(logging.INFO)


@app.command()
def search(
    catalog: Catalog,
    bbox: Bbox = None,
    datetime: Datetime = None,
    collection: Collection = None,
    max_cloud_cover: MaxCloudCover = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of scenes.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the STAC items, unsigned, to this file; it can be used as --catalog.")
    ] = None,
) -> None:
    """List the Sentinel-2 scenes that a catalog has for an area and a time."""
    from s2pipe.inputs.search import search as search_catalog

    items = search_catalog(
        catalog, bbox=bbox, datetime=datetime, collection=collection, max_cloud_cover=max_cloud_cover, limit=limit
    )
    out.print(items_table(items))
    if out_file:
        try:
            items.save_object(str(out_file))
        except OSError as error:
            raise InputError(f"--out {out_file} cannot be written: {error.strerror}") from None
        say(f"{counted(len(items), 'item')} written to {out_file}")


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
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed of the fit; default: 0.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    address: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS|local",
            help="A dask scheduler's address, or local for a cluster on this machine; default: threads.",
        ),
    ] = None,
    tls_ca_file: Annotated[
        str | None, typer.Option(help="For --scheduler tls://...: PEM file of the authority; default: dask's configuration.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM file of this client's certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    loader: Annotated[
        str, typer.Option(help="Library that builds the graph of reads, stackstac or odc; the pixels are the same.")
    ] = "stackstac",
    offset: Annotated[
        float | None,
        typer.Option(help="reflectance = DN * 1e-4 + OFFSET in the files, 0 or -0.1; default: as each item states."),
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunk edge in 10 m pixels, a multiple of 6.")] = 1830,
    at_once: Annotated[
        int,
        typer.Option("--tiles-at-once", min=1, help="MGRS tiles at once on a cluster, which sharpens some while one is fitted."),
    ] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the groups of the store instead of resuming them.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Write what a group lacks with newly fitted weights, instead of those that it keeps.")
    ] = False,
    unsharded: Annotated[bool, typer.Option("--unsharded", help="Plain chunks, for readers that cannot read shards.")] = False,
) -> None:
    """Sharpen the scenes that a catalog has, to 10 m, into a Zarr store with a group for each MGRS tile (such as 33TWM_32633).

    Existing chunks are kept: run it again after an interruption, or for later dates, which are added.
    """
    import s2pipe
    from s2pipe.core.precision import check_precision
    from s2pipe.engine.clusters import tls_security
    from s2pipe.engine.worker import check_device
    from s2pipe.inputs.load import check_chunk_edge, check_loader
    from s2pipe.inputs.offsets import check_offset
    from s2pipe.inputs.search import signer_of
    from s2pipe.store.permission import check_store

    start = time.perf_counter()
    if overwrite and refit:
        raise InputError("--overwrite fits anew anyway; leave out --refit")
    chosen = method_or_weights(method, **options_given(steps=steps, weights=weights))
    fit_options = options_given(steps=steps, weights=weights, seed=seed)
    if not isinstance(chosen, str) and fit_options:
        raise InputError(
            f"{method} is fitted already: leave out {' and '.join(f'--{name}' for name in fit_options)}, or fit anew"
        )
    wanted = parse_bands(bands)
    check_device(device)
    check_precision(precision)
    check_chunk_edge(chunks)
    check_loader(loader)
    if offset is not None:
        check_offset(offset)
    security = tls_security(tls_ca_file, tls_cert, tls_key)
    if security is not None and address in (None, "local"):
        raise InputError(
            "--tls-ca-file, --tls-cert and --tls-key are for a running scheduler: give --scheduler tls://host:8786 too"
        )
    sign = signer_of(catalog)
    items = s2pipe.search(catalog, bbox=bbox, datetime=datetime, collection=collection, max_cloud_cover=max_cloud_cover)
    groups = s2pipe.group_items(items)
    for group in groups:
        check_store(store, group=group, overwrite=overwrite, resume=not overwrite)
    load = partial(
        s2pipe.load,
        bbox=bbox,
        bands=bands_to_load(wanted, chosen),
        chunks=chunks,
        loader=loader,
        offset=offset,
        sign=sign,
    )

    def load_and_show(group: str) -> xr.DataTree:
        cube = load(groups[group])
        err.print(f"[bold]{group}[/]: {extent_of(cube)}", highlight=False)
        return cube

    with cluster_at(address, security):
        s2pipe.sharpen_tiles(
            {group: partial(load_and_show, group) for group in groups},
            store,
            at_once=at_once,
            method=chosen,
            bands=wanted,
            device=device,
            precision=precision,
            overwrite=overwrite,
            refit=refit,
            shards=not unsharded,
            **fit_options,
        )
    say(f"{redact(store)}: {', '.join(groups)}")
    say(f"{store_size(store)}{time.perf_counter() - start:.0f} s")


@app.command()
def fit(
    scene: Scene,
    path: Annotated[Path, typer.Option("--out", help="File to write, ending in .safetensors; it can be used as --method.")],
    method: Annotated[str, typer.Option(help="Sharpening method; `s2pipe info` lists them.")] = "mtf-resnet",
    sensor: Annotated[
        str, typer.Option("--sensor", "--protocol", help="What degraded the coarse bands: matched, centre, corner or box.")
    ] = "matched",
    steps: Steps = None,
    weights: Weights = None,
    weights_20m: Weights20m = None,
    weights_60m: Weights60m = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where a training saves its state; an interrupted one is resumed from there."),
    ] = None,
    repair: Repair = False,
    scale: Scale = None,
    offset: Offset = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Fit a method on a scene, and write the weights to a file for `sharpen` and `evaluate`."""
    import s2pipe
    from s2pipe.inputs.files import read_scene
    from s2pipe.methods.base import TorchSharpener

    start = time.perf_counter()
    check_weights_path(path, overwrite)
    cube = read_scene(scene, scale=scale, offset=offset).cube
    if repair:
        cube = s2pipe.repair_registration(cube)
    if checkpoint is not None:
        make_checkpoint_folder(checkpoint)
    sharpener = s2pipe.fit(
        cube,
        method,
        sensor=sensor,
        seed=seed,
        device=device,
        precision=precision,
        checkpoint=checkpoint,
        **options_given(steps=steps, weights=weights, weights_20m=weights_20m, weights_60m=weights_60m),
    )
    s2pipe.save_sharpener(sharpener, path)
    say(f"weights: {path}")
    say(f"method:  {method}")
    say(f"bands:   {' '.join(sharpener.bands_out)}, of {' '.join(sharpener.bands_in)}")
    say(f"halo:    {sharpener.halo} px at 10 m")
    say(f"sensor:  {sensor}")
    if isinstance(sharpener, TorchSharpener):
        say(f"in:      {sharpener.precision}, where its network computes")
    say(f"{time.perf_counter() - start:.0f} s")


@app.command()
def evaluate(
    scene: Scene,
    methods: Annotated[
        list[str],
        typer.Option(
            "--method",
            help="Sharpening method, `s2pipe info` lists them, or weights that `s2pipe fit` wrote; repeat to compare. "
            "`all` is every method that can run; the others are listed with the reason.",
        ),
    ],
    sensor: Annotated[
        str, typer.Option("--sensor", "--protocol", help="What degrades the scene: matched, centre, corner or box.")
    ] = "matched",
    told: Annotated[
        str | None, typer.Option(help="Sensor that the methods are told instead of the true one: matched, centre, corner or box.")
    ] = None,
    gsd: Annotated[int, typer.Option(help="Resolution in metres of the bands that are judged, 20 or 60.")] = 20,
    crop: Annotated[int, typer.Option(help="Pixels left out beside each edge of the reference.")] = 2,
    steps: Steps = None,
    weights: Weights = None,
    weights_20m: Weights20m = None,
    weights_60m: Weights60m = None,
    noise: Noise = None,
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
    """Score methods on a scene one scale lower, where what was observed is the reference.

    A file that holds its own reference is scored by that: scenes of the papers that are degraded already, and cubes of other
    sensors with all bands at the fine scale (an .npz with truth10, bands10, truth20, bands20).
    """
    import s2pipe
    from s2pipe.inputs.files import read_scene

    chosen = [name_or_weights(given) for given in methods]
    read = read_scene(scene, scale=scale, offset=offset)
    if repair and read.references:
        raise InputError("--repair would crop the scene, but not its own reference; leave it out")
    scores = s2pipe.evaluate(
        s2pipe.repair_registration(read.cube) if repair else read.cube,
        chosen,
        sensor=sensor,
        told=told,
        gsd=gsd,
        crop=crop,
        reference=reference_of(read, gsd),
        noise=number_or_word(noise),
        seed=seed,
        device=device,
        precision=precision,
        plot=plot,
        **options_given(steps=steps, weights=weights, weights_20m=weights_20m, weights_60m=weights_60m),
    )
    if as_json:
        typer.echo(scores.to_json(orient="records"))
    else:
        print_scores(scores, title=what_was_judged(read, scores, gsd=gsd, told=told))
        if plot is not None:
            say(f"picture: {plot}")


@app.command()
def info(
    store: Annotated[str | None, typer.Argument(help="Zarr store whose content is shown instead.")] = None,
) -> None:
    """Show this installation, its methods and the bands; or what a store that s2pipe wrote holds."""
    if store is None:
        print_installation()
    else:
        print_store(store)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to, made if missing.")] = Path("s2pipe-demo"),
    size: Annotated[
        int, typer.Option(min=DEMO_SIZE_MIN, help="Edge of the simulated scene in 10 m pixels, a multiple of 6.")
    ] = 720,
    papers: Annotated[bool, typer.Option("--papers", help="Train the networks of two papers, ssc-cnn and s2sucnn, too.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each of these; default 250 and 2500.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the scene and of the training.")] = 0,
) -> None:
    """Sharpen a simulated scene from catalog to store, offline, and compare the methods with its known truth."""
    from s2pipe.simulation.demo import PAPERS, run_demo

    start = time.perf_counter()
    result = run_demo(folder, size=size, papers=papers, steps=steps, seed=seed, console=out)
    table = frame_table(result.sre.rename_axis("band").reset_index(), title="SRE in dB against truth")
    for column in table.columns[1:]:
        column.justify = "right"
    table.rows[-1].style = "bold"
    out.print(table)
    if papers:
        trained = ", ".join(f"{method} for {steps or default}" for method, default in PAPERS.items())
        say(f"steps that networks were trained: {trained}; their papers train more")
    say(f"Zarr store: {result.store}")
    say(f"picture:    {result.picture}")
    say(f"{time.perf_counter() - start:.0f} s")
    mean = result.sre.loc["mean"]
    default = mean.pop("mtf-resnet")
    if default <= mean.max():
        raise S2PipeError(f"mtf-resnet is no better than {mean.idxmax()}: this installation does not work")
