"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import StoreError, redact

if TYPE_CHECKING:
    import pandas as pd
    import pystac
    import xarray as xr

    from s2pipe.inputs.files import SceneFile

from s2pipe.cli.console import counted, out, say

DEGRADED_BY = {
    "matched": "a Gaussian matched to each band's MTF (finer bands: of those judged), centred on the block of a coarse pixel",
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


def items_table(items: pystac.ItemCollection) -> Table:
    from s2pipe.inputs.items import item_datetime, item_tile
    from s2pipe.inputs.offsets import processing_baseline

    table = Table(title=counted(len(items), "item"))
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


def what_was_judged(scene: SceneFile, scores: pd.DataFrame, *, gsd: int, told: str | None) -> str:
    from s2pipe.core.encoding import Encoding

    if not scene.references:
        degraded, reference = "degraded by", "what was observed"
    else:
        degraded, reference = "degraded in the file already, supposedly by", "the file's own reference"
    sensor, noise = scores["sensor"].iloc[0], scores.attrs["noise"]
    if noise:
        degraded = f"given noise of {min(noise.values()):.2g} to {max(noise.values()):.2g} and {degraded}"
    otherwise = "" if told in (None, sensor) else f"; the methods are told {told}"
    fine = scene.cube["r10m"].to_dataset()["reflectance"]
    encoding = Encoding.from_attrs(fine.dtype, fine.attrs)
    return (
        f"{redact(scene.name)}, sensor {sensor}, gsd {gsd}: all bands are {degraded} {DEGRADED_BY[sensor]}{otherwise}; "
        f"the {gsd} m bands, sharpened back, are compared with {reference}; "
        f"reflectance = number * {encoding.scale:g} + {encoding.offset:g}"
    )


def print_scores(scores: pd.DataFrame, *, title: str) -> None:
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
        say(f"left out: {method}: {reason}")


def marked(values: pd.Series, form: str, ranked: pd.Series, *, best: Literal["highest", "lowest"]) -> list[Text]:
    """The values as printed, with a mark on the best of those that are ranked, and on the second best.

    Values that print alike share their rank; where two are best, none is second. One alone gets no mark.
    """
    printed = values.map(lambda value: f"{value:{form}}")
    ranks = printed[ranked].astype(float).rank(method="min", ascending=best == "lowest").reindex(values.index)
    marks = {1: ("*", "bold"), 2: ("'", "underline")} if ranked.sum() > 1 else {}
    given = [marks.get(rank, ("", "")) for rank in ranks]
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


def print_installation() -> None:
    import platform

    import torch

    import s2pipe

    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    say(f"s2pipe {s2pipe.__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    say(f"devices: {', '.join(devices)}")
    methods = Table(title="methods")
    for column in ("method", "fit", "options", "paper"):
        methods.add_column(column, overflow="fold")
    for name, about in s2pipe.list_methods().items():
        options = ", ".join(f"{option}={default}" for option, default in about.options.items())
        methods.add_row(name, about.fit, options, about.paper)
    out.print(methods)
    table = Table("band", "GSD m", "wavelength nm", "MTF at Nyquist", "asset keys", title="bands")
    for band in BANDS.values():
        table.add_row(band.name, str(band.gsd), f"{band.wavelength_nm:.1f}", f"{band.mtf_nyquist:.2f}", ", ".join(band.keys))
    out.print(table)


def frame_table(frame: pd.DataFrame, *, title: str) -> Table:
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(column, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
    return table


def print_store(store: str) -> None:
    import xarray as xr

    from s2pipe.store.zarr_io import list_results, open_zarr

    groups = list_results(store)
    if not groups:
        raise StoreError(f"{redact(store)} holds nothing that s2pipe wrote")
    for group in groups:
        try:
            data = open_zarr(store, group=group)
        except StoreError as error:  # one that was not written to its end
            say(str(error))
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
    yield "size", f"{counted(sizes['time'], 'date')}, {counted(sizes['band'], 'band')}, {sizes['y']} x {sizes['x']} px"
    yield "dtype", str(array.dtype)
    yield "bands", " ".join(array["band"].values)
    yield "times", ", ".join(str(time)[:19] for time in array["time"].values) if "time" in array.coords else "none"
    crs = array.rio.crs
    yield "CRS", crs.to_string() if crs else "none"
    for name in ("item_id", "platform", "processing_baseline"):
        if name in array.coords:
            yield name, ", ".join(map(str, array[name].values))
    yield from ((name, str(value)) for name, value in array.attrs.items())
