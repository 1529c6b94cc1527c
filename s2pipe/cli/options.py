"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
    str | None, typer.Option(help="Collection of the catalog; default: sentinel-2-l2a for an API, all for a local file.")
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
        help="reflectance = number * SCALE + OFFSET; default: 1e-4 for integers and .mat files, else 1. Zarr states its own."
    ),
]
Offset = Annotated[float | None, typer.Option(help="See --scale; default: 0.")]
Repair = Annotated[
    bool, typer.Option("--repair", help="First crop a scene whose resolutions are shifted by whole pixels, so that they fit.")
]
Weights20m = Annotated[str | None, typer.Option("--weights-20m", help="For dsen2: its authors' HDF5 file for the 20 m bands.")]
Weights60m = Annotated[str | None, typer.Option("--weights-60m", help="For dsen2: its authors' HDF5 file for the 60 m bands.")]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="For mtf-resnet: weights of workflows/train_weights.py, instead of its own."),
]
Steps = Annotated[int | None, typer.Option(min=0, help="Training steps, for methods that train; for mtf-resnet 0 by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of the fit.")]
Noise = Annotated[
    str | None,
    typer.Option(
        help="Noise that the degraded bands get back: native, measured on the scene, or a standard deviation in reflectance."
    ),
]
Device = Annotated[str, typer.Option(help="Where networks run: auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[
    str, typer.Option(help="What networks compute in: float32, bfloat16, or auto, bfloat16 where the processor has it.")
]
