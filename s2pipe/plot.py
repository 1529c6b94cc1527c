"""Quicklooks: pictures for a person to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

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
            shown = np.clip((image.sel(band=list(bands)).values[window] - low) / (high - low), 0, 1)
            axis.imshow(np.moveaxis(shown, 0, -1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[], xlabel=(notes or {}).get((name, bands[0]), ""))
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(" / ".join(bands), fontsize=11)
        _scale_bar(row[0])
    for axis, name in zip(axes[0], images, strict=True):
        axis.set_title(name, fontsize=12, fontweight="bold")
    figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=150)


def _busiest(image: npt.NDArray[np.floating], edge: int) -> tuple[slice, slice, slice]:
    """The window of `edge` x `edge` pixels, half an edge apart, that holds the most detail of an image (band, y, x)."""
    height, width = image.shape[-2:]
    detail = np.abs(np.diff(image, axis=1, append=image[:, -1:])).sum(axis=0)
    step = max(edge // 2, 1)
    corners = [(y, x) for y in range(0, height - edge + 1, step) for x in range(0, width - edge + 1, step)]
    y, x = max(corners, key=lambda corner: detail[corner[0] : corner[0] + edge, corner[1] : corner[1] + edge].sum())
    return slice(None), slice(y, y + edge), slice(x, x + edge)


def _stretch(image: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Reflectance (band, 1, 1) shown as black and as full brightness."""
    low, high = np.percentile(image, (1, 99), axis=(1, 2), keepdims=True)
    return low, np.maximum(high, low + 1e-6)


def _scale_bar(axis: object, *, metres: int = 300) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    height = axis.get_ylim()[0]
    left, y, length = 5, height - 6, metres / 10
    axis.plot([left, left + length], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    axis.text(left + length / 2, y - 3, f"{metres} m", color="white", ha="center", va="bottom", fontsize=9)
