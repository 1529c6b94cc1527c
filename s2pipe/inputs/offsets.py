"""The offset of reflectance in the files of a STAC item, and DN brought to ESA's present encoding."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from s2pipe.core.bands import BAND_BY_KEY
from s2pipe.core.errors import InputError

if TYPE_CHECKING:
    import dask.array as da
    import pystac

from s2pipe.core.encoding import FORMER_OFFSET, PRESENT_OFFSET, SATURATED_DN

_Dn = TypeVar("_Dn", "npt.NDArray[np.uint16]", "da.Array")

_log = logging.getLogger(__name__)

_OFFSET_BASELINE = (4, 0)
_TEST_BASELINE = "99.99"
_SHIFT_DN = 1000

BASELINE_PROPERTIES = (
    "s2:processing_baseline",
    "sentinel:processing_baseline",
    "sentinel2:processing_baseline",
    "eopf:baseline",
    "processing:version",
)
_PRODUCT_NAME_PROPERTIES = ("s2:product_uri", "sentinel:product_id", "sentinel2:product_title")
_FLAG_PROPERTIES = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


@dataclass(frozen=True, kw_only=True)
class ItemRadiometry:
    """What the stored numbers of one STAC item mean.

    Attributes
    ----------
    baseline : str or None
        ESA's processing baseline, ``"05.10"``; None where the item states none.
    offset : float
        reflectance = DN * 1e-4 + offset: 0.0 or -0.1.
    reason : str
        Why this offset, for logs and provenance.
    """

    baseline: str | None
    offset: float
    reason: str


def product_name(item: pystac.Item) -> str:
    """ESA's product name, ``"S2B_MSIL2A_20200322T074609_N0500_..."``, or the item's id where none is stated."""
    return next((str(item.properties[key]) for key in _PRODUCT_NAME_PROPERTIES if item.properties.get(key)), item.id)


def processing_baseline(item: pystac.Item) -> str | None:
    """ESA's processing baseline of an item, ``"05.10"``, from its properties or its product name; None if it states none."""
    for key in BASELINE_PROPERTIES:
        stated = str(item.properties.get(key, ""))
        if re.fullmatch(r"\d\d\.\d\d", stated):
            return stated
    named = re.search(r"_N(\d\d)(\d\d)_", product_name(item))
    return f"{named[1]}.{named[2]}" if named else None


def resolve_offset(item: pystac.Item, override: float | None = None) -> ItemRadiometry:
    """Reflectance offset of an item's stored numbers; the decision is logged.

    In order of precedence: `override`; then the catalog's flag that it moved the pixels back
    (``earthsearch:boa_offset_applied``), which leaves offset 0 whatever ``raster:bands`` says; then the processing baseline
    (-0.1 from 04.00 on, else 0). A ``raster:offset`` never decides, because archives have published wrong ones: where it
    contradicts the baseline a warning names both.

    Parameters
    ----------
    item : pystac.Item
        Of any catalog that `s2pipe.inputs.items.find_band_assets` understands.
    override : float, optional
        Offset in reflectance units, 0.0 or -0.1, instead of what the item says.

    Raises
    ------
    InputError
        If the item states no baseline, or 99.99 (a test reprocessing, whose offset is unknown), and `override` is None;
        or if `override` is another number.
    """
    baseline = processing_baseline(item)
    if override is not None:
        radiometry = ItemRadiometry(baseline=baseline, offset=check_offset(override), reason="given as offset=")
    elif baseline is None or baseline == _TEST_BASELINE or "_N9999_" in product_name(item):
        stated = f"baseline {_TEST_BASELINE}, a test reprocessing" if baseline else "no processing baseline"
        raise InputError(
            f"item {item.id} states {stated}, which does not determine whether its pixels carry an offset; state it: "
            f"offset={PRESENT_OFFSET} for products since baseline 04.00, offset={FORMER_OFFSET} before",
            argument="offset",
        )
    elif any(item.properties.get(key) is True for key in _FLAG_PROPERTIES):
        radiometry = ItemRadiometry(
            baseline=baseline, offset=FORMER_OFFSET, reason="boa_offset_applied: the catalog moved the pixels back"
        )
    else:
        radiometry = _from_baseline(item, baseline)
    _log.info("item %s: baseline %s, offset %g (%s)", item.id, radiometry.baseline, radiometry.offset, radiometry.reason)
    return radiometry


def check_offset(offset: float) -> float:
    """`offset` as a float if it is one of the two reflectance offsets there are, 0.0 and -0.1; else InputError."""
    if offset not in (FORMER_OFFSET, PRESENT_OFFSET):
        in_dn = " (that looks like DN; DN -1000 is reflectance -0.1)" if abs(offset) >= 1 else ""
        message = f"offset={offset} is not accepted{in_dn}: give {FORMER_OFFSET} or {PRESENT_OFFSET}, in reflectance units"
        raise InputError(message, argument="offset")
    return float(offset)


def _from_baseline(item: pystac.Item, baseline: str) -> ItemRadiometry:
    major, minor = baseline.split(".")
    present = (int(major), int(minor)) >= _OFFSET_BASELINE
    offset = PRESENT_OFFSET if present else FORMER_OFFSET
    contradicting = sorted(stated for stated in _stated_offsets(item) if stated != offset)
    if contradicting:
        _log.warning(
            "item %s: its assets state raster offset %s, but baseline %s means %g, which is used; load(..., offset=) overrides",
            item.id,
            ", ".join(f"{stated:g}" for stated in contradicting),
            baseline,
            offset,
        )
    return ItemRadiometry(baseline=baseline, offset=offset, reason=f"baseline {'from' if present else 'before'} 04.00")


def _stated_offsets(item: pystac.Item) -> set[float]:
    stated: set[float] = set()
    for key, asset in item.assets.items():
        if key in BAND_BY_KEY:
            fields = asset.extra_fields
            tables = (fields, *fields.get("raster:bands", ()), *fields.get("bands", ()))
            stated |= {
                float(table[name]) for table in tables for name in ("raster:offset", "offset") if table.get(name) is not None
            }
    return stated


def shift_to_present(dn: _Dn, offset: float) -> _Dn:
    """DN in ESA's present encoding (reflectance = DN * 1e-4 - 0.1): +1000 where `offset` is 0, unchanged where it is -0.1.

    Parameters
    ----------
    dn : numpy.ndarray or dask.array.Array, uint16, any shape
        Stored numbers: 0 is nodata, 65535 is saturated; both are kept, everything else is clipped to 1..65534.
    offset : float
        Their reflectance offset, 0.0 or -0.1.

    Raises
    ------
    InputError
        If `dn` is not uint16, or `offset` is another number.
    """
    if dn.dtype != np.uint16:
        raise InputError(f"dn is {dn.dtype}; ESA's DN are uint16", argument="dn")
    if check_offset(offset) == PRESENT_OFFSET:
        return dn
    if not isinstance(dn, np.ndarray):
        import dask.array as da

        shifted: da.Array = da.map_blocks(shift_to_present, dn, offset, dtype=np.uint16)
        return shifted
    ceiling = SATURATED_DN - 1
    moved = np.minimum(dn, np.uint16(ceiling - _SHIFT_DN)) + np.uint16(_SHIFT_DN)
    return np.where((dn == 0) | (dn == SATURATED_DN), dn, moved)
