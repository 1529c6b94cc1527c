"""A simulated scene with its truth, and a small scene enlarged to the size of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial, special

from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.cube import check_bands
from s2pipe.core.encoding import PRESENT_ENCODING, SATURATED_DN
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP
from s2pipe.core.types import FloatArray as Array
from s2pipe.inputs.dataarray import as_cube

if TYPE_CHECKING:
    import xarray as xr

    from s2pipe.physics.sensor import Sensor


_NOISE = 5e-4  # in reflectance: a signal-to-noise ratio of a few hundred over land, about MSI's

# Reflectance of pure materials, one column per band in ESA's order.
#                     B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
_SPECTRA: dict[str, Array] = {
    name: np.array(values, dtype=np.float32)
    for name, values in {
        "leaf":      (.030, .036, .068, .036, .105, .290, .380, .410, .430, .440, .215, .105),
        "straw":     (.055, .070, .110, .150, .185, .215, .235, .255, .275, .285, .330, .230),
        "deciduous": (.020, .025, .045, .022, .072, .235, .305, .325, .345, .355, .165, .072),
        "conifer":   (.018, .022, .033, .020, .045, .135, .172, .190, .202, .210, .092, .042),
        "loam":      (.070, .085, .120, .160, .188, .210, .230, .250, .270, .280, .360, .320),
        "red soil":  (.050, .060, .090, .175, .205, .222, .240, .258, .278, .290, .390, .345),
        "humus":     (.040, .048, .065, .085, .100, .115, .132, .150, .165, .172, .240, .212),
        "clear":     (.045, .046, .040, .024, .021, .018, .016, .014, .013, .012, .008, .006),
        "turbid":    (.062, .072, .102, .086, .086, .060, .056, .042, .036, .030, .012, .009),
        "asphalt":   (.080, .085, .092, .097, .102, .106, .110, .115, .120, .122, .142, .136),
        "concrete":  (.195, .225, .258, .280, .290, .300, .310, .318, .326, .330, .370, .360),
        "tiles":     (.070, .080, .110, .190, .232, .260, .282, .300, .318, .322, .385, .340),
        "metal":     (.300, .310, .312, .305, .300, .295, .290, .288, .285, .280, .225, .190),
    }.items()
}  # fmt: skip

# How strongly a leaf layer hides the soil, chlorophyll, leaf water and leaf structure darken leaves, and moisture darkens soil.
# The differences between the columns are what makes a coarse band a non-linear function of the 10 m bands.
_EXTINCTION = np.array((0.98, 0.95, 0.90, 0.98, 0.80, 0.60, 0.50, 0.48, 0.47, 0.47, 0.62, 0.78), dtype=np.float32)
_CHLOROPHYLL = np.array((0.10, 0.15, 0.35, 0.20, 0.55, 0.18, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0), dtype=np.float32)
_LEAF_WATER = np.array((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.02, 0.04, 0.15, 0.55, 0.70), dtype=np.float32)
_STRUCTURE = np.array((0.0, 0.0, 0.0, 0.0, 0.10, 0.30, 0.45, 0.40, 0.30, 0.25, 0.10, 0.0), dtype=np.float32)
_MOISTURE = np.array((0.30, 0.32, 0.36, 0.40, 0.42, 0.43, 0.44, 0.45, 0.47, 0.55, 0.95, 1.10), dtype=np.float32)

# Crops of a parcel: mean leaf area index, chlorophyll, leaf water, share of straw, depth of the sowing rows.
_CROPS = np.array(
    [
        (4.5, 0.6, 0.8, 0.00, 0.05),  # sugar beet
        (3.2, 0.9, 0.5, 0.00, 0.12),  # maize
        (2.4, 0.4, 0.3, 0.10, 0.04),  # meadow
        (1.4, 0.1, 0.0, 0.75, 0.05),  # ripening cereal
        (0.3, 0.2, 0.1, 0.55, 0.03),  # stubble
        (0.1, 0.3, 0.2, 0.00, 0.08),  # bare soil
    ],
    dtype=np.float32,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ObservedScene:
    """A square scene as a sensor observes it.

    Attributes
    ----------
    r10m, r20m, r60m : ndarray, (band, y, x), uint16
        DN of the bands of each resolution, ESA's order, in `PRESENT_ENCODING`.
    """

    r10m: npt.NDArray[np.uint16]
    r20m: npt.NDArray[np.uint16]
    r60m: npt.NDArray[np.uint16]

    def observed(self, gsd: int) -> npt.NDArray[np.uint16]:
        """DN of the bands of one resolution (10, 20 or 60 m)."""
        return {10: self.r10m, 20: self.r20m, 60: self.r60m}[gsd]


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedScene(ObservedScene):
    """A scene whose truth is known; what is observed is the truth degraded, plus noise.

    Attributes
    ----------
    truth : ndarray, (12, y, x), float32
        Reflectance of every band at 10 m, ESA's band order.
    """

    truth: npt.NDArray[np.float32]


def simulate_scene(size: int = 720, *, seed: int = 0, sensor: Sensor | str | None = None) -> SimulatedScene:
    """Farmland with forests, a river, a lake, roads and settlements, seen by a sensor at 10, 20 and 60 m.

    Parameters
    ----------
    size : int
        Edge in 10 m pixels, a multiple of 6, at least 60.
    seed : int
        Equal seeds give equal scenes.
    sensor : Sensor or str, optional
        What degrades the truth to 20 and 60 m, or its name; the default is ``"centre"``.

    Returns
    -------
    SimulatedScene

    Raises
    ------
    InputError
        If `size` is too small or no multiple of 6.
    """
    import torch

    from s2pipe.physics.sensor import as_sensor

    if size < 10 * STEP or size % STEP:
        raise InputError(f"size={size}: give a multiple of {STEP} px, at least {10 * STEP}", argument="size")
    sensor = as_sensor(sensor)
    rng = np.random.default_rng(seed)
    truth = _optics(_landscape(rng, size))
    names = list(BANDS)
    observed = {}
    for gsd in GSDS:
        bands = BANDS_BY_GSD[gsd]
        seen = truth[[names.index(band) for band in bands]]
        if gsd > 10:
            seen = sensor.degrade(torch.from_numpy(seen), bands, gsd // 10).numpy()
        observed[gsd] = PRESENT_ENCODING.encode(seen + rng.normal(0, _NOISE, seen.shape))
    return SimulatedScene(truth=truth, r10m=observed[10], r20m=observed[20], r60m=observed[60])


def enlarge_scene(cube: xr.DataTree, size: int = 10980, *, seed: int = 0) -> ObservedScene:
    """A scene as large as a tile, made of a small one: mirrored at its edges over and over, and perturbed, so that no two parts
    of it are the same.

    Parameters
    ----------
    cube : xarray.DataTree
        All twelve bands; its first date is taken.
    size : int
        Edge in 10 m pixels, a multiple of 6. The default is that of an MGRS tile.
    seed : int
        Equal seeds give equal scenes.

    Returns
    -------
    ObservedScene
        The crop's reflectance, 15 % darker to 15 % brighter from place to place, alike in all bands, with noise. Nodata and
        saturated pixels stay what they are.

    Raises
    ------
    InputError
        If the cube lacks a band, or `size` is no multiple of 6.
    """
    if size < STEP or size % STEP:
        raise InputError(f"size={size}: give a multiple of {STEP} px", argument="size")
    crop_from = as_cube(cube)
    arrays, encoding = crop_from.arrays, crop_from.encoding
    check_bands(BANDS, crop_from.all_bands)
    rng = np.random.default_rng(seed)
    spots = rng.uniform(0.85, 1.15, (2 + size // 180,) * 2).astype(np.float32)
    brightness = ndimage.zoom(spots, size / STEP / len(spots), order=1, grid_mode=True, mode="nearest")  # of 60 m pixels
    observed = {}
    for gsd, bands in BANDS_BY_GSD.items():
        edge, crop = size * 10 // gsd, arrays[gsd].isel(time=0)
        factor = brightness.repeat(60 // gsd, axis=0).repeat(60 // gsd, axis=1)
        observed[gsd] = np.empty((len(bands), edge, edge), dtype=np.uint16)
        for out, band in zip(observed[gsd], bands, strict=True):
            numbers = crop.sel(band=band).values
            widths = [(0, max(edge - length, 0)) for length in numbers.shape]
            numbers = np.pad(numbers, widths, mode="symmetric")[:edge, :edge]
            noise = _NOISE * rng.standard_normal(numbers.shape, dtype=np.float32)
            out[:] = PRESENT_ENCODING.encode(np.nan_to_num(encoding.decode(numbers)) * factor + noise)
            out[encoding.is_nodata(numbers)] = PRESENT_ENCODING.nodata
            out[encoding.is_saturated(numbers)] = SATURATED_DN
    return ObservedScene(r10m=observed[10], r20m=observed[20], r60m=observed[60])


def _optics(landscape: Array) -> npt.NDArray[np.float32]:
    """The landscape as an ideal 10 m sensor with the MTF of each band sees it."""
    from s2pipe.physics.sensor import gaussian_sigma

    sigmas = [gaussian_sigma(band.mtf_nyquist, 1) for band in BANDS.values()]
    seen = [ndimage.gaussian_filter(image, sigma) for image, sigma in zip(landscape, sigmas, strict=True)]
    return np.asarray(np.clip(np.stack(seen), 1e-3, 1.2), dtype=np.float32)


def _landscape(rng: np.random.Generator, size: int) -> Array:
    """Reflectance (band, y, x) of the ground: layers painted one over the other."""
    ground = _fields(rng, size)
    towns = _town_centres(rng, size)
    for cover, spectrum in (
        _forest(rng, size),
        _river(rng, size),
        _roads(rng, size, towns),
        _settlements(rng, size, towns),
        _lake(rng, size),
    ):
        ground += cover * (spectrum - ground)
    relief = 1 + 0.04 * _fractal(rng, size, 2.4)
    ground *= relief
    # Aerosol and water vapour that an atmospheric correction leaves behind, in the two bands made to see them.
    ground[_index("B01")] += 0.004 * _fractal(rng, size, 3.5)
    ground[_index("B09")] *= 1 + 0.05 * _fractal(rng, size, 3.5)
    return ground


def _fields(rng: np.random.Generator, size: int) -> Array:
    """Parcels of crops on varying soils."""
    parcel, along, edge = _parcels(rng, size)
    count = parcel.max() + 1
    crop = _CROPS[rng.choice(len(_CROPS), count, p=(0.15, 0.2, 0.2, 0.2, 0.1, 0.15))]
    crop = crop * rng.lognormal(0, (0.25, 0.3, 0.5, 0.2, 0.3), (count, 5)).astype(np.float32)
    leaf_area, chlorophyll, leaf_water, straw, rows = np.moveaxis(crop[parcel], -1, 0)
    vigour = 1 + 0.18 * _fractal(rng, size, 1.6)
    sowing = 1 + rows * np.sin(2 * np.pi * along / 2.7)  # tramlines: about 27 m
    leaf_area = np.clip(leaf_area * vigour * sowing, 0, None)
    leaf_area = np.where(edge, 0.5 * leaf_area + 0.6, leaf_area)  # grassy margins
    chlorophyll = chlorophyll * (1 + 0.25 * _fractal(rng, size, 1.5))
    leaf_water = leaf_water * (1 + 0.3 * _fractal(rng, size, 1.4)) + rng.uniform(0, 0.5, count)[parcel]
    structure = rng.uniform(0, 0.7, count)[parcel] + 0.1 * _fractal(rng, size, 1.4)
    moisture = rng.uniform(0, 0.8, count)[parcel] + 0.15 * _fractal(rng, size, 1.4)

    soil = _blend(["loam", "red soil", "humus"], [2.0 * _fractal(rng, size, 2.6) for _ in range(3)])
    soil *= np.exp(-_bandwise(_MOISTURE) * moisture)
    absorbed = _bandwise(_CHLOROPHYLL) * chlorophyll + _bandwise(_LEAF_WATER) * leaf_water + _bandwise(_STRUCTURE) * structure
    leaf = _bandwise(_SPECTRA["leaf"]) * np.exp(-absorbed)
    canopy = leaf + np.clip(straw, 0, 0.9) * (_bandwise(_SPECTRA["straw"]) - leaf)
    seen_soil = np.exp(-_bandwise(_EXTINCTION) * leaf_area)
    return np.asarray(canopy + seen_soil * (soil - canopy), dtype=np.float32)


def _parcels(rng: np.random.Generator, size: int) -> tuple[npt.NDArray[np.intp], Array, npt.NDArray[np.bool_]]:
    """Number of each pixel's parcel, its position across the rows in pixels, and whether it lies on the parcel's margin.

    The land is cut into Voronoi regions; each has its own orientation and is cut into strips, and the strips into parcels.
    """
    regions = max(4, round((size / 130) ** 2))
    region = _nearest(rng.uniform(0, size, (regions, 2)), size)
    y, x = np.mgrid[:size, :size] + 0.5
    angle = rng.uniform(0, np.pi, regions)[region]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    strip = np.floor(u / rng.uniform(9, 30, regions)[region]).astype(np.int64)
    # A different start and length in each strip, or parcels would form a chessboard.
    random = np.random.default_rng(rng.integers(2**32)).uniform(size=(2, 4096))
    key = (strip * 31 + region * 97) % 4096
    row = np.floor(v / (20 + 50 * random[0][key]) + random[1][key]).astype(np.int64)
    _, parcel = np.unique(((region * 4096 + strip % 4096) * 4096 + row % 4096).ravel(), return_inverse=True)
    parcel = parcel.reshape(size, size)
    edge = ndimage.maximum_filter(parcel, 2) != parcel
    return parcel, u, edge


def _forest(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    cover = _soft(_fractal(rng, size, 2.2) - 0.95, 0.04)
    crowns = np.clip(1 + 0.16 * ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.6) / 0.5, 0.3, None)
    spectrum = _blend(["deciduous", "conifer"], [4 * _fractal(rng, size, 1.3), np.zeros((size, size))])
    water = np.exp(-_bandwise(_LEAF_WATER) * 0.3 * _fractal(rng, size, 1.3))
    return cover, (spectrum * crowns * water).astype(np.float32)


def _river(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    y = np.arange(size)
    meander = np.cumsum(np.cumsum(rng.standard_normal(size)))
    meander -= np.polyval(np.polyfit(y, meander, 3), y)
    middle = size * rng.uniform(0.3, 0.7) + (y - size / 2) * rng.uniform(-0.4, 0.4) + 0.08 * size * meander / meander.std()
    width = 0.006 * size + 1.2 + 0.5 * np.interp(y, y[:: size // 6], rng.standard_normal(len(y[:: size // 6])))
    slope = np.sqrt(1 + np.gradient(middle) ** 2)[:, None]
    distance = np.abs(np.arange(size)[None, :] - middle[:, None]) / slope
    mud = _bandwise(_SPECTRA["turbid"]) * (1 + 0.08 * _fractal(rng, size, 2.0))
    return _soft(np.maximum(width, 1.2)[:, None] - distance, 0.35), mud


def _lake(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    y, x = np.mgrid[:size, :size]
    centre_y, centre_x = rng.uniform(0.15, 0.85, 2) * size
    radius = np.hypot((y - centre_y) * rng.uniform(1, 1.8), x - centre_x)
    shore = 0.10 * size * (1 + 0.35 * _fractal(rng, size, 2.0)) - radius
    depth = np.clip(shore / (0.06 * size), 0, 1)
    plume = 1.5 * _fractal(rng, size, 2.6) - 4 * depth + 1
    return _soft(shore, 0.4), _blend(["turbid", "clear"], [plume, np.zeros((size, size))])


def _town_centres(rng: np.random.Generator, size: int) -> Array:
    return rng.uniform(0.08, 0.92, (max(2, round(size / 120)), 2)) * size


def _roads(rng: np.random.Generator, size: int, towns: Array) -> tuple[Array, Array]:
    """Roads between neighbouring towns, and from each town out of the scene."""
    y, x = np.mgrid[:size, :size] + 0.5 + 0.012 * size * np.stack([_fractal(rng, size, 2.6) for _ in range(2)])
    distance = np.full((size, size), np.inf)
    neighbours = spatial.cKDTree(towns).query(towns, k=min(3, len(towns)))[1]
    ends = [(towns[i], towns[j]) for i, near in enumerate(neighbours) for j in near[1:]]
    headings = rng.uniform(0, 2 * np.pi, len(towns))
    ends += [(town, town + size * np.array((np.sin(a), np.cos(a)))) for town, a in zip(towns, headings, strict=True)]
    for start, end in ends:
        along = end - start
        place = np.clip(((y - start[0]) * along[0] + (x - start[1]) * along[1]) / (along @ along), 0, 1)
        distance = np.minimum(distance, np.hypot(y - start[0] - place * along[0], x - start[1] - place * along[1]))
    return 0.9 * _soft(0.7 - distance, 0.2), np.broadcast_to(_bandwise(_SPECTRA["asphalt"]), (len(BANDS), size, size))


def _settlements(rng: np.random.Generator, size: int, towns: Array) -> tuple[Array, Array]:
    """Blocks of buildings and gardens between streets: texture at the scale of a pixel."""
    town = _nearest(towns, size)
    y, x = np.mgrid[:size, :size] + 0.5
    radius = rng.uniform(0.02, 0.06, len(towns))[town] * size * (1 + 0.4 * _fractal(rng, size, 1.8))
    cover = 0.85 * _soft(radius - np.hypot(y - towns[town, 0], x - towns[town, 1]), 1.0)
    angle = rng.uniform(0, np.pi, len(towns))[town]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    green = 0.45 * (1 + 0.3 * _fractal(rng, size, 1.2))[None]  # gardens and trees within each pixel
    lot = (np.floor(u / 2.3).astype(np.int64) * 7919 + np.floor(v / 1.9).astype(np.int64) * 104729) % 65536
    materials = np.stack([_SPECTRA[name] for name in ("tiles", "concrete", "metal", "asphalt", "leaf", "deciduous")])
    kind = rng.choice(len(materials), 65536, p=(0.3, 0.12, 0.03, 0.17, 0.23, 0.15))
    brightness = rng.lognormal(0, 0.15, 65536)
    spectrum = np.moveaxis(materials[kind[lot]] * brightness[lot][..., None], -1, 0)
    spectrum = spectrum + np.clip(green, 0, 1) * (_bandwise(_SPECTRA["leaf"]) - spectrum)
    street = np.maximum(_soft(0.5 - np.abs(u % 9 - 4.5), 0.2), _soft(0.5 - np.abs(v % 14 - 7), 0.2))
    return cover, (spectrum + street * (_bandwise(_SPECTRA["asphalt"]) - spectrum)).astype(np.float32)


def _fractal(rng: np.random.Generator, size: int, slope: float) -> Array:
    """Gaussian field (y, x) with amplitude spectrum 1 / frequency**slope, mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency**slope, s=(size, size))
    return np.asarray(field / field.std(), dtype=np.float32)


def _nearest(points: Array, size: int) -> npt.NDArray[np.intp]:
    """Number of the point nearest to each pixel: Voronoi cells."""
    pixels = np.moveaxis(np.mgrid[:size, :size], 0, -1).reshape(-1, 2) + 0.5
    return np.asarray(spatial.cKDTree(points).query(pixels)[1]).reshape(size, size)


def _soft(distance: Array, width: float) -> Array:
    """Share of a pixel inside a shape, from the signed distance to its border: a step `width` wide."""
    return np.asarray(special.expit(distance / width), dtype=np.float32)


def _blend(materials: list[str], weights: list[Array]) -> Array:
    """Spectra (band, y, x) of a mixture, shares by softmax of `weights`."""
    shares = special.softmax(np.stack(weights), axis=0)
    spectra = np.stack([_SPECTRA[name] for name in materials], axis=1)
    return np.asarray(np.tensordot(spectra, shares, axes=1), dtype=np.float32)


def _bandwise(values: Array) -> Array:
    return values[:, None, None]


def _index(band: str) -> int:
    return list(BANDS).index(band)
