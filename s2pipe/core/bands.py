"""The table of Sentinel-2 MSI bands that every other module uses."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Band:
    """One spectral band of the MultiSpectral Instrument.

    Attributes
    ----------
    name : str
        ESA's name, ``"B02"``, ``"B8A"``.
    gsd : int
        Native ground sampling distance in metres: 10, 20 or 60.
    wavelength_nm : float
        Central wavelength of Sentinel-2A in nm (ESA, Sentinel-2 MSI technical guide, spectral bands).
    mtf_nyquist : float
        Modulation transfer at the Nyquist frequency of `gsd`, from the table used by Palsson et al. and
        the papers of S2Sharp and S2SUCNN.
    keys : tuple of str
        Other names under which catalogs list the band's assets. CDSE's ``B02_10m`` is ``{name}_{gsd}m``.
    """

    name: str
    gsd: int
    wavelength_nm: float
    mtf_nyquist: float
    keys: tuple[str, ...]


BANDS: dict[str, Band] = {
    name: Band(name=name, gsd=gsd, wavelength_nm=wavelength, mtf_nyquist=mtf, keys=keys)
    for name, gsd, wavelength, mtf, keys in (
        ("B01", 60, 442.7, 0.32, ("coastal",)),
        ("B02", 10, 492.4, 0.26, ("blue",)),
        ("B03", 10, 559.8, 0.28, ("green",)),
        ("B04", 10, 664.6, 0.24, ("red",)),
        ("B05", 20, 704.1, 0.38, ("rededge1",)),
        ("B06", 20, 740.5, 0.34, ("rededge2",)),
        ("B07", 20, 782.8, 0.34, ("rededge3",)),
        ("B08", 10, 832.8, 0.26, ("nir",)),
        ("B8A", 20, 864.7, 0.33, ("nir08",)),
        ("B09", 60, 945.1, 0.26, ("nir09",)),
        ("B11", 20, 1613.7, 0.22, ("swir16",)),
        ("B12", 20, 2202.4, 0.23, ("swir22",)),
    )
}
"""Every band by name, in ESA's order. B10 (cirrus) hardly sees the ground and is left out."""

GSDS: tuple[int, ...] = (10, 20, 60)
"""The native ground sampling distances in metres, finest first."""

BANDS_BY_GSD: dict[int, tuple[str, ...]] = {gsd: tuple(b.name for b in BANDS.values() if b.gsd == gsd) for gsd in GSDS}
"""Band names of each resolution, in ESA's order: the band order of every cube node and of `from_arrays`."""

BAND_BY_KEY: dict[str, str] = {
    key: band.name for band in BANDS.values() for key in (band.name, band.name.lower(), f"{band.name}_{band.gsd}m", *band.keys)
}
"""ESA's band name for every name a catalog uses for the band at its native resolution."""


def node_name(gsd: int) -> str:
    """Name of the cube node that holds the bands of one resolution, ``"r10m"``."""
    return f"r{gsd}m"


def bands_at(bands: Iterable[str], gsd: int) -> tuple[str, ...]:
    """Those of `bands` whose native resolution is `gsd`, in their order."""
    return tuple(band for band in bands if BANDS[band].gsd == gsd)
