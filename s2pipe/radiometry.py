"""How stored numbers mean reflectance: scale, offset, nodata and saturation, and the way back."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2pipe.bands import BAND_BY_KEY
from s2pipe.errors import InputError

if TYPE_CHECKING:
    import pystac

_log = logging.getLogger(__name__)

SATURATED_DN = 65535
"""DN that ESA's products give a saturated pixel (uint16 only)."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the numbers of an array mean reflectance.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of the stored numbers: an integer (DN) or a float.
    scale, offset : float
        reflectance = number * scale + offset.
    nodata : float
        Stored number of a pixel that was not seen; NaN for floats.
    """

    dtype: np.dtype[Any]
    scale: float
    offset: float
    nodata: float

    @classmethod
    def default(
        cls,
        dtype: npt.DTypeLike,
        *,
        scale: float | None = None,
        offset: float = 0.0,
        nodata: float | None = None,
    ) -> Encoding:
        """Encoding of an array of `dtype`: 1e-4 and nodata 0 for integers, 1 and NaN for floats.

        Raises
        ------
        InputError
            If `dtype` is neither an integer nor a float; or `scale`, `offset` or `nodata` is no number, not finite, 0 for a
            scale, or no number that `dtype` can store for nodata.
        """
        dtype = np.dtype(dtype)
        if dtype.kind not in "iuf":
            raise InputError(f"dtype {dtype} is not supported; give integers (DN) or floats (reflectance)")
        integer = dtype.kind in "iu"
        if not all(number is None or isinstance(number, (int, float, np.number)) for number in (scale, offset, nodata)):
            raise InputError(f"scale={scale!r}, offset={offset!r} and nodata={nodata!r} must be numbers")
        encoding = cls(
            dtype=dtype,
            scale=float(scale) if scale is not None else (1e-4 if integer else 1.0),
            offset=float(offset),
            nodata=float(nodata) if nodata is not None else (0.0 if integer else float("nan")),
        )
        if not (np.isfinite(encoding.scale) and encoding.scale != 0 and np.isfinite(encoding.offset)):
            raise InputError(f"scale={scale} and offset={offset} must be finite and scale must not be 0")
        if integer and not (
            np.isfinite(encoding.nodata)
            and np.iinfo(dtype).min <= encoding.nodata <= np.iinfo(dtype).max
            and encoding.nodata.is_integer()
        ):
            raise InputError(f"nodata={nodata} cannot be stored in {dtype}; give a whole number in its range")
        return encoding

    @classmethod
    def from_attrs(cls, dtype: npt.DTypeLike, attrs: Mapping[str, Any]) -> Encoding:
        """Encoding that CF attributes state; what they do not state is the default of `dtype`.

        Raises
        ------
        InputError
            If `dtype` is a float and the attributes are those of the DN it was computed from, which xarray keeps through
            arithmetic; or as `default` does.
        """
        if np.dtype(dtype).kind == "f" and isinstance(attrs.get("_FillValue"), (int, np.integer)):
            raise InputError(
                f"the data are {np.dtype(dtype)} but still carry the attributes of the DN they were computed from (_FillValue="
                f"{attrs['_FillValue']}); drop them for reflectance with NaN: data.drop_attrs()"
            )
        return cls.default(
            dtype,
            scale=attrs.get("scale_factor"),
            offset=attrs.get("add_offset", 0.0),
            nodata=attrs.get("_FillValue"),
        )

    def attrs(self) -> dict[str, Any]:
        """CF attributes that state this encoding."""
        return {
            "scale_factor": self.scale,
            "add_offset": self.offset,
            "_FillValue": self.dtype.type(self.nodata),
            "units": "1",
        }

    @property
    def is_integer(self) -> bool:
        """Whether the numbers are DN."""
        return self.dtype.kind in "iu"

    @property
    def _marks_saturation(self) -> bool:
        return self.dtype.newbyteorder("=") == np.uint16 and self.nodata != SATURATED_DN

    def is_nodata(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where `numbers` were not seen."""
        unseen: npt.NDArray[np.bool_] = np.isnan(numbers) if np.isnan(self.nodata) else numbers == self.dtype.type(self.nodata)
        return unseen

    def is_saturated(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where `numbers` are ESA's mark of a saturated pixel (uint16 only)."""
        if not self._marks_saturation:
            return np.zeros(numbers.shape, dtype=bool)
        saturated: npt.NDArray[np.bool_] = numbers == SATURATED_DN
        return saturated

    def decode(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Reflectance (float32) of `numbers`; nodata and saturated pixels, which measure nothing, become NaN.

        Raises
        ------
        InputError
            If `numbers` hold infinities or what float32 cannot hold, or NaN although nodata is a number.
        """
        if not self.is_integer:
            self.check_finite(numbers)
        work = self._work_dtype.type
        scaled = numbers.astype(work) * work(self.scale) + work(self.offset)
        with np.errstate(over="ignore"):  # told below
            reflectance: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
        reflectance[self.is_nodata(numbers) | self.is_saturated(numbers)] = np.nan
        if np.isinf(reflectance).any():
            raise InputError("the data hold numbers whose reflectance float32 cannot hold; mask them first")
        return reflectance

    def check_finite(self, numbers: npt.NDArray[Any]) -> None:
        """Refuse floats that are infinite, or NaN although nodata is a number.

        Raises
        ------
        InputError
        """
        if np.isinf(numbers).any():
            raise InputError("the data hold infinities; mask them first, for example data.where(np.isfinite(data))")
        if not np.isnan(self.nodata) and np.isnan(numbers).any():
            raise InputError(
                f"the data hold NaN although their nodata is {self.nodata}; use one of the two, for example nodata=None for NaN"
            )

    def encode(self, reflectance: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """Stored numbers of finite `reflectance`, integers rounded and clipped so that no valid value wraps or reads as nodata.

        uint16 with nodata 0 clips to 1..65534, as ESA's products do.
        """
        work = self._work_dtype.type if self.is_integer else np.float64
        numbers = reflectance.astype(work)
        numbers -= work(self.offset)
        numbers /= work(self.scale)
        if not self.is_integer:
            stored = numbers.astype(self.dtype)
            return np.where(stored == self.nodata, np.nextafter(stored, self.dtype.type(np.inf)), stored)
        low, high = int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)
        if self._marks_saturation:
            high = SATURATED_DN - 1
        nodata = int(self.nodata)
        stored = np.clip(np.rint(numbers, out=numbers), low, high, out=numbers).astype(self.dtype)
        stored[stored == nodata] = nodata + 1 if nodata < high else nodata - 1
        return stored

    @property
    def _work_dtype(self) -> np.dtype[np.floating[Any]]:
        """What numbers are computed in: float32 holds every 16 bit integer and its reflectance to far below half a DN."""
        return np.dtype(np.float32 if self.dtype.itemsize <= 2 else np.float64)


PRESENT_OFFSET = -0.1
"""Reflectance offset of ESA's products since baseline 04.00: reflectance = DN * 1e-4 - 0.1."""

FORMER_OFFSET = 0.0
"""Reflectance offset before baseline 04.00, and of pixels a catalog has moved back: reflectance = DN * 1e-4."""

PRESENT_ENCODING = Encoding.default(np.uint16, offset=PRESENT_OFFSET)
"""ESA's present encoding, the one `load` gives."""

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

    The order of authority: `override`; then the catalog's flag that it moved the pixels back
    (``earthsearch:boa_offset_applied``), which leaves offset 0 whatever ``raster:bands`` says; then the processing baseline
    (-0.1 from 04.00 on, else 0). A ``raster:offset`` never decides, because archives have published wrong ones: where it
    contradicts the baseline a warning names both.

    Parameters
    ----------
    item : pystac.Item
        Of any catalog that `s2pipe.catalogs.find_band_assets` understands.
    override : float, optional
        Offset in reflectance units, 0.0 or -0.1, instead of what the item says.

    Raises
    ------
    InputError
        If the item states no baseline, or 99.99 (a test reprocessing, whose offset nobody can know), and `override` is None;
        or if `override` is another number.
    """
    baseline = processing_baseline(item)
    if override is not None:
        radiometry = ItemRadiometry(baseline=baseline, offset=check_offset(override), reason="given as offset=")
    elif baseline is None or baseline == _TEST_BASELINE or "_N9999_" in product_name(item):
        stated = f"baseline {_TEST_BASELINE}, a test reprocessing" if baseline else "no processing baseline"
        raise InputError(
            f"item {item.id} states {stated}, which does not tell whether its pixels carry an offset; say it: "
            f"load(..., offset={PRESENT_OFFSET}) for products since baseline 04.00, load(..., offset={FORMER_OFFSET}) before"
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
    """Give back `offset` if it is one of the two legal reflectance offsets, 0.0 and -0.1; else raise InputError."""
    if offset not in (FORMER_OFFSET, PRESENT_OFFSET):
        in_dn = " (that looks like DN; DN -1000 is reflectance -0.1)" if abs(offset) >= 1 else ""
        raise InputError(f"offset={offset} is not legal{in_dn}: give {FORMER_OFFSET} or {PRESENT_OFFSET}, in reflectance units")
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
            places = (fields, *fields.get("raster:bands", ()), *fields.get("bands", ()))
            stated |= {
                float(place[name]) for place in places for name in ("raster:offset", "offset") if place.get(name) is not None
            }
    return stated


def shift_to_present(dn: Any, offset: float) -> Any:
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
        raise InputError(f"dn is {dn.dtype}; ESA's DN are uint16")
    if check_offset(offset) == PRESENT_OFFSET:
        return dn
    if not isinstance(dn, np.ndarray):
        return dn.map_blocks(shift_to_present, offset, dtype=np.uint16)
    ceiling = SATURATED_DN - 1
    shifted = np.minimum(dn, np.uint16(ceiling - _SHIFT_DN)) + np.uint16(_SHIFT_DN)
    return np.where((dn == 0) | (dn == SATURATED_DN), dn, shifted)
