"""Quicklooks: pictures for a person to judge by."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from s2pipe.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Array: TypeAlias = npt.NDArray[np.floating]

MOST_COLUMNS = 7
"""Images side by side: more of them go below."""

COMPOSITES: tuple[tuple[str, ...], ...] = (("B12", "B8A", "B05"), ("B09",))
"""Rows of a picture: three bands as red, green and blue, or one in grey."""


def save_comparison(
    path: str | Path,
    images: Mapping[str, xr.DataArray],
    *,
    notes: Mapping[tuple[str, str], str] | None = None,
    composites: Sequence[Sequence[str]] = COMPOSITES,
    edge: int = 120,
    title: str = "",
) -> None:
    """Write a PNG with images of the same ground side by side, one row for each composite of bands.

    Parameters
    ----------
    path : path
        The PNG.
    images : mapping of str to DataArray, (band, y, x)
        Reflectance at 10 m by column title. The last is the reference: it decides the stretch and the part that is shown, the one
        with the most detail in the first composite.
    notes : mapping of (column title, band) to str, optional
        Printed under the columns, for the first band of each row.
    composites : sequence of sequences of str
        One band or three for each row.
    edge : int
        Edge of the part that is shown, in pixels.
    title : str
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reference = list(images.values())[-1]
    window = _busiest(reference.sel(band=list(composites[0])).values, min(edge, *reference.shape[-2:]))
    # A figure of its own, not pyplot's, leaves a notebook's or a script's backend alone.
    figure = Figure(figsize=(3.1 * len(images), 3.3 * len(composites) + 0.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(composites), len(images), squeeze=False)
    for row, bands in zip(axes, composites, strict=True):
        low, high = _stretch(reference.sel(band=list(bands)).values[window])
        for axis, (name, image) in zip(row, images.items(), strict=True):
            _draw_composite(axis, image.sel(band=list(bands)).values[window], low, high)
            axis.set(xticks=[], yticks=[], xlabel=(notes or {}).get((name, bands[0]), ""))
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(" / ".join(bands), fontsize=11)
        _scale_bar(row[0], gsd=10)
    for axis, name in zip(axes[0], images, strict=True):
        axis.set_title(name, fontsize=12, fontweight="bold")
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=150)


def busiest_part(image: xr.DataArray, *, edge: int = 96) -> xr.DataArray:
    """The part of an image (band, y, x) that `save_evaluation` shows: where its composite has the most detail.

    Parameters
    ----------
    image : DataArray, (band, y, x)
        Bands of one resolution, with their names in the coordinate ``band``; NaN where it is invalid.
    edge : int
        Of the part, in pixels; less where the image is smaller.

    Returns
    -------
    DataArray, (band, y, x)
        Three bands to be shown as red, green and blue, or one to be shown in grey.
    """
    composite = image.sel(band=_composite(list(image["band"].values)))
    return composite[_busiest(composite.values, min(edge, *composite.shape[1:]))]


def _composite(bands: list[str]) -> list[str]:
    """The first of `COMPOSITES` that there is; else the first band of them that there is; else the first band."""
    whole = [list(composite) for composite in COMPOSITES if set(composite) <= set(bands)]
    single = [[band] for composite in COMPOSITES for band in composite if band in bands]
    return [*whole, *single, bands[:1]][0]


def check_picture_path(path: str | Path) -> None:
    """Refuse a path that no picture can be written to.

    Raises
    ------
    InputError
        If matplotlib writes no pictures of this suffix, the folder is missing or cannot be written to, or `path` is a folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    if path.suffix.removeprefix(".").lower() not in (accepted := FigureCanvasAgg.get_supported_filetypes()):
        endings = ", ".join(f".{suffix}" for suffix in sorted(accepted))
        raise InputError(f"plot {path} must end in one of {endings}", argument="plot")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"plot {path}: {path.parent} is no folder that can be written to", argument="plot")
    if path.is_dir():
        raise InputError(f"plot {path} is a folder; give the path of a picture", argument="plot")


def save_evaluation(path: str | Path, scores: pd.DataFrame, truth: xr.DataArray, estimates: Mapping[str, xr.DataArray]) -> None:
    """Write the picture that `draw_evaluation` makes to a path that `check_picture_path` accepts."""
    draw_evaluation(scores, truth, estimates).savefig(path, dpi=200, bbox_inches="tight")


def draw_evaluation(scores: pd.DataFrame, truth: xr.DataArray, estimates: Mapping[str, xr.DataArray]) -> Figure:
    """A picture of a comparison: the SRE of every method and band, and a part of the scene with truth, results and errors.

    Methods are in the order of their mean SRE, the best first. All errors are on one scale.

    Parameters
    ----------
    scores : pandas.DataFrame
        The table of `s2pipe.evaluate`.
    truth : DataArray, (band, y, x)
        The part of the reference that is shown, reflectance, see `busiest_part`.
    estimates : mapping of str to DataArray, (band, y, x)
        What each method of `scores` made of it.
    """
    from matplotlib.figure import Figure

    sre = scores.pivot(index="method", columns="band", values="sre_db")[list(scores["band"].unique())]
    sre = sre.sort_values("all", ascending=False)
    titles = _titles(scores)
    sensor, gsd = scores["sensor"].iloc[0], int(scores["gsd"].iloc[0])
    rows = -(-(1 + len(sre)) // MOST_COLUMNS)
    columns = -(-(1 + len(sre)) // rows)
    cell = min(2.0, 10.5 / columns)  # inches
    heights = 1.3 + 0.24 * len(sre), 0.5 + rows * (2 * cell + 0.3)
    figure = Figure(figsize=(max(columns * cell, 7), sum(heights)), layout="constrained", facecolor="white")
    panels: Any = figure.subfigures(2, 1, height_ratios=heights)  # matplotlib's stubs know of one panel only
    above, below = panels
    above.suptitle(f"The {gsd} m bands, sharpened one scale lower (sensor {sensor})", fontsize=11)
    _draw_sre(above.subplots(), sre.rename(index=titles))
    _draw_parts(below, truth, {titles[name]: estimates[name] for name in sre.index}, rows=rows, columns=columns, gsd=gsd)
    return figure


def _titles(scores: pd.DataFrame) -> dict[str, str]:
    """The name of each method, with what to know about its figures."""
    together = scores[scores["band"] == "all"].set_index("method")
    remarked = together["in_sample"].map({True: " (in-sample)", False: ""})
    remarked += together["interpolated"].map({True: " (interpolated)", False: ""})
    return {name: f"{name}{remark}" for name, remark in remarked.items()}


def _draw_sre(axis: Axes, sre: pd.DataFrame) -> None:
    """A line for each method, with a dot for each band, and the mean in figures."""
    lines = range(len(sre))
    for band, marker in zip(sre.columns.drop("all"), "osD^vP", strict=False):
        axis.plot(sre[band], lines, marker, markersize=4.5, label=band, alpha=0.85)
    axis.plot(sre["all"], lines, "|", color="black", markersize=11, markeredgewidth=1.8, label="mean")
    for line, mean in zip(lines, sre["all"], strict=True):
        axis.text(1.01, line, f"{mean:.2f}", transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_yticks(lines, sre.index, fontsize=8)
    axis.set_ylim(len(sre) - 0.5, -0.5)
    axis.set_xlabel("SRE in dB; at the right the mean", fontsize=8)
    axis.tick_params(length=0, labelsize=8)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(sre.columns), fontsize=8, frameon=False)


def _draw_parts(
    figure: SubFigure, truth: xr.DataArray, estimates: Mapping[str, xr.DataArray], *, rows: int, columns: int, gsd: int
) -> None:
    """The truth and what each method made of it, each error below, all of them on one scale."""
    from matplotlib.ticker import MaxNLocator

    errors = {name: abs(estimate - truth).mean("band").values for name, estimate in estimates.items()}
    largest = float(
        np.nanmedian([np.nanpercentile(error, 99) for error in errors.values()])
    )  # a bad method must not dim the rest
    bands = [str(band) for band in truth["band"].values]
    of_bands = f" (mean of the {len(bands)} bands)" if len(bands) > 1 else ""
    figure.suptitle(
        f"{' / '.join(bands)} where the scene has the most detail. Below each result its absolute error\n"
        f"in reflectance{of_bands}; the number is the mean over the part",
        fontsize=9,
    )
    low, high = _stretch(truth.values)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    images = axes[::2].ravel(), axes[1::2].ravel()
    for row, anchor in zip(axes, itertools.cycle("SN")):  # each error right below its image
        for axis in row:
            axis.set(xticks=[], yticks=[], anchor=anchor)
            axis.spines[:].set_visible(False)
    for axis, (name, image) in zip(images[0], {"truth": truth, **estimates}.items(), strict=False):
        _draw_composite(axis, image.values, low, high)
        axis.set_title(name, fontsize=8, fontweight="bold", pad=3)
    _scale_bar(images[0][0], gsd=gsd)
    for axis, error in zip(images[1][1:], errors.values(), strict=False):
        shown = axis.imshow(error, cmap="magma", vmin=0, vmax=largest, interpolation="nearest")
        axis.set_xlabel(f"{np.nanmean(error):.4f}", fontsize=7, labelpad=2)
    scale = images[1][0].inset_axes((0.05, 0.6, 0.9, 0.08))
    bar = figure.colorbar(shown, cax=scale, orientation="horizontal", extend="max", ticks=MaxNLocator(3))
    bar.set_label("absolute error", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _draw_composite(axis: Axes, image: Array, low: Array, high: Array) -> None:
    """An image (band, y, x) of three bands in colour, or of one in grey; white where it is invalid."""
    shown = np.nan_to_num(np.clip((image - low) / (high - low), 0, 1), nan=1)
    axis.imshow(np.moveaxis(shown, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _busiest(image: Array, edge: int) -> tuple[slice, slice, slice]:
    """The window of `edge` x `edge` pixels, half an edge apart, that holds the most detail of an image (band, y, x)."""
    height, width = image.shape[-2:]
    detail = np.nansum(np.abs(np.diff(image, axis=1, append=image[:, -1:])), axis=0)
    step = max(edge // 2, 1)
    corners = [(y, x) for y in range(0, height - edge + 1, step) for x in range(0, width - edge + 1, step)]
    y, x = max(corners, key=lambda corner: detail[corner[0] : corner[0] + edge, corner[1] : corner[1] + edge].sum())
    return slice(None), slice(y, y + edge), slice(x, x + edge)


def _stretch(image: Array) -> tuple[Array, Array]:
    """Reflectance (band, 1, 1) shown as black and as full brightness."""
    low, high = np.nanpercentile(image, (1, 99), axis=(1, 2), keepdims=True)
    return low, np.maximum(high, low + 1e-6)


def _scale_bar(axis: Axes, *, gsd: int) -> None:
    """At the lower left, at most a third of the image wide."""
    width, height = axis.get_xlim()[1], axis.get_ylim()[0]
    lengths = [metres for metres in (100, 200, 300, 500, 1000, 2000, 3000, 5000) if metres <= width * gsd / 3]
    metres = max(lengths, default=100)
    left, y, length = width / 16, height * 0.95, metres / gsd
    axis.plot([left, left + length], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    axis.text(left, y - height / 40, f"{metres} m", color="white", ha="left", va="bottom", fontsize=9)
