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
from s2pipe.errors import InputError, S2PipeError, StoreError

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
Bbox = Annotated[tuple[float, float, float, float] | None, typer.Option(metavar="WEST SOUTH EAST NORTH", help="Area in degrees.")]
Datetime = Annotated[str | None, typer.Option(help="A day, 2026-06-21, or an interval, 2026-06-01/2026-06-30.")]
Collection = Annotated[str | None, typer.Option(help="Collection of the catalog; default: Sentinel-2 L2A.")]
MaxCloudCover = Annotated[float | None, typer.Option(help="Percent.")]


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
    limit: Annotated[int | None, typer.Option(min=1, help="Most items to list.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the items, unsigned, to this item-collection file.")
    ] = None,
) -> None:
    """List the scenes that a catalog has for an area and a time."""
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
            _say(f"{len(items)} items written to {out_file}")


def _items_table(items: pystac.ItemCollection) -> Table:
    from s2pipe.items import item_datetime, item_tile
    from s2pipe.radiometry import processing_baseline

    table = Table(title=f"{len(items)} items")
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
    datetime: Annotated[str, typer.Option(help="A day, 2026-06-21, or an interval, 2026-06-01/2026-06-30.")],
    store: Annotated[str, typer.Option("--out", help="Zarr store to write: a local path or an fsspec URL.")],
    bbox: Bbox = None,
    collection: Collection = None,
    max_cloud_cover: MaxCloudCover = None,
    method: Annotated[str, typer.Option(help="See `s2pipe info`.")] = "ssc-cnn",
    bands: Annotated[list[str] | None, typer.Option(help="Bands to write, B05,B11 or repeated; default: all twelve.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, for methods that train.")] = None,
    seed: Annotated[int, typer.Option(help="Everything random in the fit follows it.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="A dask scheduler, or a local cluster; default: threads.")
    ] = None,
    loader: Annotated[str, typer.Option(help="stackstac or odc.")] = "stackstac",
    offset: Annotated[
        float | None, typer.Option(help="reflectance = DN * 1e-4 + OFFSET in the files, whatever the items say (0 or -0.1).")
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunk edge in 10 m pixels, a multiple of 6.")] = 1830,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the groups of the store that are written.")] = False,
    unsharded: Annotated[bool, typer.Option("--unsharded", help="Plain chunks, for readers that know no Zarr shards.")] = False,
) -> None:
    """Search, load, sharpen, and write a Zarr store, one group for each MGRS tile (such as 33TWM_32633)."""
    with _clean_exit():
        import s2pipe
        from s2pipe.job import sharpen_to_store
        from s2pipe.store import check_store
        from s2pipe.worker import check_device

        start = time.perf_counter()
        fit_options: dict[str, Any] = {} if steps is None else {"steps": steps}
        _check_method(method, fit_options)
        wanted = _parse_bands(bands)
        check_device(device)
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
        with _cluster(scheduler):
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
        _say(f"{store}: {', '.join(groups)}")
        _say(f"{_store_size(store)}{time.perf_counter() - start:.0f} s")


def _check_method(name: str, options: dict[str, Any]) -> None:
    from s2pipe.methods import get_method

    get_method(name, **options)


def _parse_bands(given: list[str] | None) -> list[str] | None:
    if not given:
        return None
    names = [name.strip() for part in given for name in part.split(",")]
    if unknown := [name for name in names if name not in BANDS]:
        raise InputError(f"unknown bands {', '.join(map(repr, unknown))} in --bands; legal bands are {', '.join(BANDS)}")
    return names


def _bands_to_load(wanted: list[str] | None) -> list[str] | None:
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


def _extent(cube: xr.DataTree) -> str:
    fine = cube[node_name(10)]["reflectance"]
    dates = fine.sizes["time"]
    return f"{fine.sizes['y']} x {fine.sizes['x']} px at 10 m, {dates} date{'s' if dates > 1 else ''}"


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

    from s2pipe.store import open_zarr

    for group in _written_groups(store):
        try:
            data = open_zarr(store, group=group)
        except StoreError as error:  # one that was not written to its end
            _say(str(error))
            continue
        nodes = [data.to_dataset()] if isinstance(data, xr.DataArray) else [node.to_dataset() for node in data.children.values()]
        for node in nodes:
            array = node["reflectance"]
            table = Table("", "", show_header=False, title=group or "/", title_justify="left")
            table.columns[1].overflow = "fold"
            for name, value in _facts(array):
                table.add_row(name, escape(value))
            out.print(table)


def _written_groups(store: str) -> list[str | None]:
    """Groups of a store that s2pipe wrote; None is its root."""
    import zarr
    from zarr.errors import GroupNotFoundError

    from s2pipe.store import COMPLETE

    try:
        root = zarr.open_group(store, mode="r")
    except (GroupNotFoundError, OSError):
        raise StoreError(f"there is no Zarr store at {store}") from None
    if COMPLETE in root.attrs:
        return [None]
    if groups := sorted(name for name, group in root.groups() if COMPLETE in group.attrs):
        return list(groups)
    raise StoreError(f"{store} holds nothing that s2pipe wrote")


def _facts(array: xr.DataArray) -> Iterator[tuple[str, str]]:
    yield "size", " x ".join(f"{size} {dim}" for dim, size in array.sizes.items())
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
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("s2pipe-demo"),
    size: Annotated[int, typer.Option(help="Edge of the simulated scene in 10 m pixels, a multiple of 6.")] = 720,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each network of ssc-cnn.")] = 250,
    seed: Annotated[int, typer.Option(help="Of the scene and of the training.")] = 0,
) -> None:
    """Sharpen a simulated scene, end to end and without network, and compare with its known truth."""
    with _clean_exit():
        from s2pipe.demo import run_demo
        from s2pipe.methods.ssc_cnn import SscCnn

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
