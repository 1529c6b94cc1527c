"""How stored numbers mean reflectance: scale, offset, nodata and saturation, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2pipe.core.errors import InputError

if TYPE_CHECKING:
    pass


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
