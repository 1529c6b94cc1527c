"""The command line: search, sharpen, info, demo."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s2pipe.bands import BANDS, node_name
from s2pipe.errors import InputError, S2PipeError, StoreError, redact

if TYPE_CHECKING:
    import pandas as pd
    import pystac
    import xarray as xr

# Whatever takes long to import (torch, dask, rasterio) is imported in the commands that use it: `--help` must be quick.

app = typer.Typer(
    help="All Sentinel-2 bands at 10 m: from a STAC search to a sharpened Zarr store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they may hold signed URLs
)
out = Console()
err = Console(stderr=True)

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
        from s2pipe.catalogs import search as search_catalog

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
    from s2pipe.items import item_datetime, item_tile
    from s2pipe.radiometry import processing_baseline

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
    method: Annotated[str, typer.Option(help="Sharpening method; `s2pipe info` lists them.")] = "ssc-cnn",
    bands: Annotated[list[str] | None, typer.Option(help="Bands to write, B05,B11 or repeated; default: all twelve.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, for methods that train.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random in the training.")] = 0,
    device: Annotated[str, typer.Option(help="Where networks run: auto, cpu, cuda, cuda:1, mps.")] = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="A dask scheduler's address, or local for a cluster here; default: threads."),
    ] = None,
    loader: Annotated[
        str, typer.Option(help="What builds the graph of reads, stackstac or odc; the pixels are the same.")
    ] = "stackstac",
    offset: Annotated[
        float | None, typer.Option(help="reflectance = DN * 1e-4 + OFFSET in the files, whatever the items say (0 or -0.1).")
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunk edge in 10 m pixels, a multiple of 6.")] = 1830,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the groups of the store that are written.")] = False,
    unsharded: Annotated[bool, typer.Option("--unsharded", help="Plain chunks, for readers that know no Zarr shards.")] = False,
) -> None:
    """Sharpen the scenes that a catalog has, to 10 m, into a Zarr store with a group for each MGRS tile (such as 33TWM_32633)."""
    with _clean_exit():
        import s2pipe
        from s2pipe.job import sharpen_to_store
        from s2pipe.loading import check_chunk_edge, check_loader
        from s2pipe.radiometry import check_offset
        from s2pipe.store import check_store
        from s2pipe.worker import check_device

        start = time.perf_counter()
        fit_options: dict[str, Any] = {} if steps is None else {"steps": steps}
        _check_method(method, fit_options)
        wanted = _parse_bands(bands)
        check_device(device)
        check_chunk_edge(chunks)
        check_loader(loader)
        if offset is not None:
            check_offset(offset)
        sign = _signer(catalog)
        items = s2pipe.search(catalog, bbox=bbox, datetime=datetime, collection=collection, max_cloud_cover=max_cloud_cover)
        groups = s2pipe.group_items(items)
        for group in groups:
            check_store(store, group=group, overwrite=overwrite)
        cubes = {
            group: s2pipe.load(
                members, bbox=bbox, bands=_bands_to_load(wanted), chunks=chunks, loader=loader, offset=offset, sign=sign
            )
            for group, members in groups.items()
        }
        with _cluster(scheduler), _chunks_told():
            for group, cube in cubes.items():
                err.print(f"[bold]{group}[/]: {_extent(cube)}", highlight=False)
                sharpen_to_store(
                    cube,
                    store,
                    group=group,
                    method=method,
                    bands=wanted,
                    device=device,
                    seed=seed,
                    overwrite=overwrite,
                    shards=not unsharded,
                    **fit_options,
                )
        _say(f"{redact(store)}: {', '.join(groups)}")
        _say(f"{_store_size(store)}{time.perf_counter() - start:.0f} s")


def _check_method(name: str, options: dict[str, Any]) -> None:
    from s2pipe.methods import get_method

    get_method(name, **options)


def _parse_bands(given: list[str] | None) -> tuple[str, ...] | None:
    from s2pipe.cube import check_bands

    if not given:
        return None
    return check_bands(name for part in given for name in map(str.strip, part.split(",")) if name)


def _bands_to_load(wanted: tuple[str, ...] | None) -> list[str] | None:
    """Every band at the resolutions asked for and finer: methods use them all."""
    if wanted is None:
        return None
    coarsest = max(BANDS[band].gsd for band in wanted)
    return [band.name for band in BANDS.values() if band.gsd <= coarsest]


def _signer(catalog: str) -> Any:
    """What signs hrefs when they are read, for the catalog that wants it."""
    if catalog != "planetary-computer":
        return None
    try:
        import planetary_computer
    except ImportError:
        raise InputError(
            "--catalog planetary-computer needs planetary-computer: pip install 's2pipe[planetary-computer]'"
        ) from None
    return planetary_computer.sign


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """The dask cluster at `address`, a local one, or none."""
    if address is None:
        yield
        return
    from distributed import Client, LocalCluster

    if address == "local":
        # A failing task's error comes back to this process; the workers need not log its traceback as well.
        with LocalCluster(dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster, Client(cluster):
            yield
        return
    try:
        client = Client(address)
    except (OSError, ValueError):
        raise InputError(
            f"--scheduler {address}: no dask scheduler answers there; give its address, tcp://host:8786, or local"
        ) from None
    with client:
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

    from s2pipe.store import list_results, open_zarr

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
        from s2pipe.demo import run_demo
        from s2pipe.methods.lower_scale import SscCnn

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
