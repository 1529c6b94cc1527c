"""A scene from files: band GeoTIFFs, NumPy or MATLAB arrays, or a cube in a Zarr store, read into one cube."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import rasterio
import rasterio.crs
import rasterio.errors
import xarray as xr
from affine import Affine
from dask.base import tokenize
from rasterio.transform import array_bounds
from rasterio.windows import Window

from s2pipe.core.bands import BANDS, GSDS, bands_at
from s2pipe.core.cube import Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError, ReadError, StoreError, redact
from s2pipe.core.lattice import DEFAULT_CHUNK, regular_chunks
from s2pipe.core.types import AnyArray
from s2pipe.inputs.array_files import library_errors, read_mat, read_npz
from s2pipe.store.zarr_io import list_results, open_zarr

_log = logging.getLogger(__name__)

KINDS = (
    "a folder of GeoTIFFs named Bxx_<resolution>m.tif, an .npz with r10m, r20m and perhaps r60m, one of the papers' .mat files, "
    "or a cube in a Zarr store that s2pipe wrote, store.zarr or store.zarr/group"
)
"""The kinds of scenes, for messages."""

MAT_SCALE = 1e-4
"""Reflectance of one DN in the papers' files, whatever type they store DN in."""


@dataclass(frozen=True, kw_only=True)
class SceneFile:
    """A scene as its files hold it.

    Attributes
    ----------
    cube : xarray.DataTree
        Nodes ``r10m``, ``r20m``, ``r60m`` with ``reflectance`` (time, band, y, x), in the numbers of the files.
    references : dict of int to numpy.ndarray, (band, y, x)
        By GSD, where the file holds them: the cube's bands of this resolution on the grid of ``r10m``, in the cube's numbers
        and dtype. Those of SSC-CNN's files are observed 20 m bands, those of a cube of another sensor its own bands.
    name : str
        Last part of the path, without ``.npz``, ``.mat`` or ``.zarr``.
    """

    cube: xr.DataTree
    references: dict[int, AnyArray] = field(default_factory=dict)
    name: str


def read_scene(scene: str | os.PathLike[str], *, scale: float | None = None, offset: float | None = None) -> SceneFile:
    """Read a scene from files into a cube: reflectance = number * scale + offset.

    Parameters
    ----------
    scene : str or os.PathLike
        One of:

        * a folder of GeoTIFFs, one band each at its native resolution, whose names end in the band and perhaps the resolution
          (``B02_10m.tif``, ``..._B02.tif``). At least one 10 m and one coarse band, all of one CRS, ground, dtype and nodata.
          Other files and B10 are ignored. Pixels are read when computed, in chunks of 18.3 km.
        * an ``.npz`` with r10m, r20m and perhaps r60m, (band, y, x), bands as for `s2pipe.from_arrays`.
        * an ``.npz`` with truth10, truth20 and perhaps truth60, (band, y, x), all on one grid with edges that are multiples of
          6, and bands10, bands20, bands60, their names: a cube of another sensor, which holds every band at the fine scale.
          That is taken for 10 m, and what the default `Sensor` would see of the bands at 20 and 60 m becomes the scene.
        * one of the papers' ``.mat`` files, MATLAB v5 or v7.3 (HDF5), told apart by what they hold; axes in MATLAB's order:
          y10, y20, y60 (y, x, band) of S2SUCNN; im10, im20, im60 (y, x, band) of DSen2, im10 in the order B04 B03 B02 B08;
          Yim and Xm_im of SSC-CNN: Yim is the scene degraded by 2, twelve cells (y, x), so that the cube's 10, 20 and 60 m
          pixels are really of 20, 40 and 120 m; Xm_im (y, x, band) are the observed 20 m bands, the reference. 60 m cells that
          are off the lattice, as Reykjavik's, are left out with a warning.
        * a cube in a Zarr store, as `s2pipe.to_zarr` writes it: ``store.zarr``, or ``store.zarr/group`` where it holds several.
    scale : float, optional
        Default 1e-4 for integers and .mat files of any dtype, 1 for other floats. Zarr stores state their own.
    offset : float, optional
        In reflectance; default 0. Zarr stores state their own.

    Returns
    -------
    SceneFile

    Raises
    ------
    InputError
        If there is no such path, it is of no kind above, it cannot be read, its bands do not make a cube, or `scale` or
        `offset` is not accepted, as for a Zarr store. The message begins with the path.
    ReadError
        When pixels of a GeoTIFF are computed that cannot be read.

    Examples
    --------
    >>> shifts = s2pipe.measure_registration(s2pipe.read_scene("papers/iceland.mat").cube)  # doctest: +SKIP
    """
    path = os.fspath(scene)
    try:
        return _read(path, scale, offset)
    except (InputError, StoreError) as error:
        about = tuple(name for name in error.arguments if name in ("scale", "offset"))
        raise InputError(f"{redact(path)}: {error}", argument=about or "scene") from None


def _read(scene: str, scale: float | None, offset: float | None) -> SceneFile:
    path = Path(scene)
    name = re.sub(r"\.(npz|mat|zarr)$", "", path.resolve().name, flags=re.IGNORECASE)
    if location := _store_and_group(scene):
        if scale is not None or offset is not None:
            raise InputError("a Zarr store states its own scale and offset; leave these out", argument=("scale", "offset"))
        return SceneFile(cube=_read_store(*location), name=name)
    offset = 0.0 if offset is None else offset
    if os.path.isdir(path):
        return SceneFile(cube=_read_folder(path, scale, offset), name=name)
    if not os.path.isfile(path):
        raise InputError(f"there is no such file or folder; give {KINDS}")
    if path.suffix.lower() == ".npz":
        cube, references = read_npz(path, scale, offset)
        return SceneFile(cube=cube, references=references, name=name)
    if path.suffix.lower() == ".mat":
        cube, reference = read_mat(path, MAT_SCALE if scale is None else scale, offset)
        return SceneFile(cube=cube, references={} if reference is None else {20: reference}, name=name)
    raise InputError(f"a file of this kind is no scene; give {KINDS}")


# Folders of GeoTIFFs


@dataclass(frozen=True, kw_only=True)
class _BandFile:
    """The metadata of a band's GeoTIFF."""

    path: Path
    band: str
    crs: rasterio.crs.CRS | None
    transform: Affine
    shape: tuple[int, int]
    encoding: Encoding

    @property
    def gsd(self) -> int:
        return BANDS[self.band].gsd

    @property
    def bounds(self) -> tuple[float, ...]:
        """Left, bottom, right and top, to the centimetre."""
        return tuple(round(edge, 2) for edge in array_bounds(*self.shape, self.transform))


def _read_folder(folder: Path, scale: float | None, offset: float) -> xr.DataTree:
    with library_errors("the folder"):
        paths = sorted(folder.absolute().iterdir())
    named = [(path, band) for path in paths if (band := _band_in_name(path.name))]
    if not named:
        raise InputError(f"the folder holds no GeoTIFF named Bxx_<resolution>m.tif; give {KINDS}")
    _check_bands_present(named)
    files = {band: _open_band(path, band, scale, offset) for path, band in named}
    _check_geometry(list(files.values()))
    built = {}
    for gsd in GSDS:
        if bands := bands_at((band for band in BANDS if band in files), gsd):
            first = files[bands[0]]
            array = da.stack([_lazy_pixels(files[band]) for band in bands])[None]
            built[gsd] = make_node(array, bands, encoding=first.encoding, transform=first.transform, crs=first.crs)
    return Cube.checked(built).to_tree()


def _band_in_name(name: str) -> str | None:
    found = re.search(r"(?<![A-Z0-9])(B\d[\dA])(_\d+m)?\.tiff?$", name, re.IGNORECASE)
    band = found[1].upper() if found else None
    return band if band in BANDS else None


def _check_bands_present(named: Sequence[tuple[Path, str]]) -> None:
    bands = [band for _, band in named]
    if twice := [path.name for path, band in named if bands.count(band) > 1]:
        raise InputError(f"bands are in several files, {', '.join(twice)}; keep one for each, at its native resolution")
    if not bands_at(bands, 10) or len(bands_at(bands, 10)) == len(bands):
        raise InputError(f"the folder holds the bands {', '.join(bands)}; needed are at least one of 10 m and one of 20 or 60 m")


def _open_band(path: Path, band: str, scale: float | None, offset: float) -> _BandFile:
    with library_errors(path.name), rasterio.open(path) as file:
        count, dtype, nodata = file.count, file.dtypes[0], file.nodata
        crs, transform, shape = file.crs, file.transform, file.shape
    if count != 1:
        raise InputError(f"{path.name} holds {count} bands; give one file for each band")
    try:
        encoding = Encoding.default(dtype, scale=scale, offset=offset, nodata=nodata)
    except InputError as error:
        raise InputError(f"{path.name}: {error}", argument=error.arguments) from None
    return _BandFile(path=path, band=band, crs=crs, transform=transform, shape=shape, encoding=encoding)


def _check_geometry(files: Sequence[_BandFile]) -> None:
    foreign = [file for file in files if not _is_native(file)]
    if foreign:
        told = (f"{file.path.name} {tuple(file.transform)[:6]} instead of {file.gsd} m" for file in foreign)
        raise InputError(f"files are not on north-up grids of their bands' native resolutions: {'; '.join(told)}")
    _check_same("CRS", files, lambda file: file.crs)
    _check_same("ground (left, bottom, right, top)", files, lambda file: file.bounds)
    _check_same("dtype or nodata", files, lambda file: f"{file.encoding.dtype} with nodata {file.encoding.nodata:g}")


def _is_native(file: _BandFile) -> bool:
    north_up = Affine(file.gsd, 0, file.transform.c, 0, -file.gsd, file.transform.f)
    return file.transform.almost_equals(north_up, 1e-6)


def _check_same(what: str, files: Sequence[_BandFile], value: Callable[[_BandFile], object]) -> None:
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(str(value(file)), []).append(file.path.name)
    if len(names) > 1:
        told = (f"{stated} in {', '.join(those)}" for stated, those in names.items())
        raise InputError(f"files differ in {what}: {'; '.join(told)}; crop or convert them to one")


def _lazy_pixels(file: _BandFile) -> da.Array:
    edge = DEFAULT_CHUNK * GSDS[0] // file.gsd
    # The time of writing is part of the key, so that a cluster does not take pixels it holds for those of a file written anew.
    pixels: da.Array = da.map_blocks(
        partial(_read_block, file.path),
        chunks=tuple(regular_chunks(size, edge) for size in file.shape),
        meta=np.empty((0, 0), file.encoding.dtype),
        name=f"{file.band}-{tokenize(str(file.path), file.path.stat().st_mtime_ns)}",
    )
    return pixels


def _read_block(path: Path, block_info: Mapping[None, Mapping[str, Sequence[tuple[int, int]]]]) -> AnyArray:
    rows, columns = block_info[None]["array-location"]
    try:
        with rasterio.open(path) as file:
            pixels: AnyArray = file.read(1, window=Window.from_slices(rows, columns))
    except rasterio.errors.RasterioError as error:
        raise ReadError(f"{path} cannot be read, perhaps it is damaged ({type(error).__name__}: {error})") from None
    return pixels


# Zarr stores


def _store_and_group(scene: str) -> tuple[str, str] | None:
    """Root of the Zarr store that `scene` lies in, and the group within it; None if it lies in none."""
    if "://" in scene:
        return scene, ""
    path = Path(scene)
    # os.path, unlike pathlib, answers no where a folder may not be searched
    zarr_groups = [folder for folder in (path, *path.parents) if os.path.isfile(folder / "zarr.json")]
    if os.path.isfile(path) or not zarr_groups:
        return None
    root = zarr_groups[-1]
    return str(root), "/".join(path.relative_to(root).parts)


def _read_store(store: str, group: str) -> xr.DataTree:
    within = [name for name in list_results(store) if not group or name == group or name.startswith(f"{group}/")]
    if len(within) > 1:
        choices = ", ".join(f"{redact(store)}/{name}" for name in within)
        raise InputError(f"there are several cubes or results; choose one by store/group: {choices}")
    found = open_zarr(store, group=within[0] if within else group)
    if isinstance(found, xr.DataArray):
        raise InputError("this is a sharpened result, all bands at 10 m; give a cube of the native resolutions")
    Cube.of_tree(found)
    return found
