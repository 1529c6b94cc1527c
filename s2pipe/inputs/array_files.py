"""A scene of the arrays in a file of NumPy or MATLAB."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
import scipy.io
import xarray as xr
from affine import Affine

from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS, bands_at, node_name
from s2pipe.core.cube import Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP
from s2pipe.core.types import AnyArray
from s2pipe.inputs.arrays import from_arrays
from s2pipe.physics.sensor import Sensor

_log = logging.getLogger(__name__)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn whatever a library raises on a file into an InputError: damaged files make them raise nearly anything."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{what} cannot be read, perhaps it is damaged ({type(error).__name__}: {error})") from None


def read_npz(path: Path, scale: float | None, offset: float) -> tuple[xr.DataTree, dict[int, AnyArray]]:
    with library_errors("the file"), np.load(path, allow_pickle=False) as file:
        present = file.files
        arrays = {name: file[name] for name in map(node_name, GSDS) if name in present}
        truth = {gsd: file[f"truth{gsd}"] for gsd in GSDS if f"truth{gsd}" in present}
        names = {gsd: tuple(map(str, file[f"bands{gsd}"])) for gsd in truth if f"bands{gsd}" in present}
    if 10 in truth and names.keys() == truth.keys():
        return _seen_of(truth, names, scale, offset)
    if "r10m" not in arrays or "r20m" not in arrays:
        raise InputError(
            f"the file holds the arrays {', '.join(present)}; needed are r10m and r20m, and perhaps r60m, or truth10, bands10, "
            "truth20 and bands20, and perhaps truth60 and bands60"
        )
    for name, array in arrays.items():
        _check_image(name, array, "(band, y, x)")
    return from_arrays(**arrays, scale=scale, offset=offset), {}


def _seen_of(
    truth: Mapping[int, AnyArray], names: Mapping[int, tuple[str, ...]], scale: float | None, offset: float
) -> tuple[xr.DataTree, dict[int, AnyArray]]:
    """What the sensor sees of bands that are all known at 10 m, and those of them that it sees at 20 and 60 m."""
    for gsd, array in truth.items():
        _check_image(f"truth{gsd}", array, "(band, y, x)")
    height, width = truth[10].shape[1:]
    nodes, references = {}, {}
    for gsd, array in truth.items():
        own = bands_at(names[gsd], gsd)
        if own != names[gsd] or array.shape != (len(own), height, width) or height % STEP or width % STEP or not own:
            raise InputError(
                f"truth{gsd} has the shape {array.shape}, and bands{gsd} names {', '.join(names[gsd])}; expected are some of "
                f"{', '.join(BANDS_BY_GSD[gsd])}, in this order, on the grid of truth10, with edges that are multiples of {STEP}"
            )
        encoding = Encoding.default(np.float32)
        reflectance = Encoding.default(array.dtype, scale=scale, offset=offset).decode(array)
        seen = reflectance
        if gsd > 10:
            references[gsd] = reflectance
            seen = Sensor().seen_of(reflectance, own, gsd // 10)
        nodes[gsd] = make_node(seen[None], own, encoding=encoding, transform=Affine(gsd, 0, 0, 0, -gsd, 0))
    return Cube.checked(nodes, encoding).to_tree(), references


def _check_image(name: str, array: AnyArray, axes: str) -> None:
    if array.ndim != 3:
        raise InputError(f"{name} has the shape {array.shape}; expected three axes, {axes}")


_MatValue: TypeAlias = AnyArray | list[AnyArray]


def read_mat(path: Path, scale: float, offset: float) -> tuple[xr.DataTree, AnyArray | None]:
    with library_errors("the file"):
        held = _hdf5_arrays(path) if h5py.is_hdf5(path) else _v5_arrays(path)
    reference = None
    if "y10" in held and "y20" in held:
        arrays = [_bands_first(held, name) for name in ("y10", "y20", "y60") if name in held]
    elif "im10" in held and "im20" in held:
        arrays = [_bands_first(held, name) for name in ("im10", "im20", "im60") if name in held]
        arrays[0] = _in_esa_order(arrays[0])
    elif "Yim" in held and "Xm_im" in held:
        arrays = _from_cells(held["Yim"])
        reference = _reference(held, arrays[0])
    else:
        raise InputError(
            f"the file holds {', '.join(held) or 'no arrays'}; the papers' files hold y10, y20 and y60; im10, im20 and im60; "
            "or Yim and Xm_im"
        )
    return from_arrays(*arrays, scale=scale, offset=offset), reference


def _hdf5_arrays(path: Path) -> dict[str, _MatValue]:
    """Arrays of a v7.3 file in MATLAB's axis order, which HDF5 turns round; cell arrays as lists."""
    with h5py.File(path) as file:
        return {
            name: [_matlab_axes(file[cell]) for cell in node[()].ravel()]
            if h5py.check_ref_dtype(node.dtype)
            else _matlab_axes(node)
            for name, node in file.items()
            if isinstance(node, h5py.Dataset)
        }


def _matlab_axes(dataset: h5py.Dataset) -> AnyArray:
    return np.asarray(dataset[()]).T


def _v5_arrays(path: Path) -> dict[str, _MatValue]:
    held = scipy.io.loadmat(path, appendmat=False)
    return {
        name: list(value.ravel()) if value.dtype == object else value for name, value in held.items() if not name.startswith("__")
    }


def _bands_first(held: Mapping[str, _MatValue], name: str) -> AnyArray:
    array = held[name]
    if isinstance(array, list):
        raise InputError(f"{name} is a cell array; expected an array (y, x, band)")
    _check_image(name, array, "(y, x, band)")
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _in_esa_order(array: AnyArray) -> AnyArray:
    """`array` (band, y, x) with GDAL's order of the 10 m bands of an ESA product, B04 B03 B02 B08, put into B02 B03 B04 B08."""
    if len(array) != 4:
        raise InputError(f"im10 has {len(array)} bands; expected B04 B03 B02 B08")
    return array[[2, 1, 0, 3]]


def _from_cells(cells: _MatValue) -> list[AnyArray]:
    """The cells of the twelve bands, in ESA's order, as one array (band, y, x) for each resolution."""
    if not isinstance(cells, list) or len(cells) != len(BANDS):
        raise InputError(f"Yim is no cell array of {len(BANDS)} bands, {' '.join(BANDS)}")
    by_band = dict(zip(BANDS, cells, strict=True))
    arrays = [_stacked({band: by_band[band] for band in BANDS_BY_GSD[gsd]}) for gsd in (10, 20)]
    coarsest = {band: by_band[band] for band in BANDS_BY_GSD[60]}
    height, width = arrays[0].shape[1:]
    if all(cell.shape == (height / STEP, width / STEP) for cell in coarsest.values()):
        return [*arrays, _stacked(coarsest)]
    _log.warning(
        "the cells of %s are of %s px, off the lattice of the %d x %d px of the 10 m bands: they are left out",
        " and ".join(coarsest),
        " and ".join(" x ".join(map(str, cell.shape)) for cell in coarsest.values()),
        height,
        width,
    )
    return arrays


def _stacked(cells: Mapping[str, AnyArray]) -> AnyArray:
    shapes = {cell.shape for cell in cells.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise InputError(f"the cells of {', '.join(cells)} have the shapes {sorted(shapes)}; expected one, (y, x)")
    return np.stack(list(cells.values()))


def _reference(held: Mapping[str, _MatValue], fine: AnyArray) -> AnyArray:
    observed = _bands_first(held, "Xm_im")
    expected = (len(BANDS_BY_GSD[20]), *fine.shape[1:])
    if observed.shape != expected:
        raise InputError(f"Xm_im has the shape {observed.shape} (band, y, x); expected {expected}, the grid of Yim's 10 m bands")
    return observed.astype(fine.dtype)
