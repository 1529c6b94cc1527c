"""How stored numbers encode reflectance: scale, offset, nodata and saturation, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2pipe.core.errors import InputError
from s2pipe.core.types import AnyArray, AnyDtype, FloatArray, Json

SATURATED_DN = 65535
"""DN that ESA's products give a saturated pixel (uint16 only)."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the numbers of an array encode reflectance.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of the stored numbers: an integer (DN) or a float.
    scale, offset : float
        reflectance = number * scale + offset.
    nodata : float
        Stored number of an invalid pixel; NaN for floats.
    """

    dtype: AnyDtype
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
        dtype = _check_dtype(dtype)
        integer = dtype.kind in "iu"
        for name, number in (("scale", scale), ("offset", offset), ("nodata", nodata)):
            optional = name != "offset"
            if not (isinstance(number, (int, float, np.number)) or (number is None and optional)):
                raise InputError(f"{name}={number!r} must be a number", argument=name)
        encoding = cls(
            dtype=dtype,
            scale=float(scale) if scale is not None else (1e-4 if integer else 1.0),
            offset=float(offset),
            nodata=float(nodata) if nodata is not None else (0.0 if integer else float("nan")),
        )
        if not np.isfinite(encoding.scale) or encoding.scale == 0:
            raise InputError(f"scale={scale} must be finite and not 0", argument="scale")
        if not np.isfinite(encoding.offset):
            raise InputError(f"offset={offset} must be finite", argument="offset")
        if integer and not (
            np.isfinite(encoding.nodata)
            and np.iinfo(dtype).min <= encoding.nodata <= np.iinfo(dtype).max
            and encoding.nodata.is_integer()
        ):
            raise InputError(f"nodata={nodata} cannot be stored in {dtype}; give a whole number in its range", argument="nodata")
        return encoding

    @classmethod
    def from_attrs(cls, dtype: npt.DTypeLike, attrs: Json) -> Encoding:
        """Encoding that CF attributes state; what they do not state is the default of `dtype`.

        Raises
        ------
        InputError
            If `dtype` is a float and the attributes are those of the DN it was computed from, which xarray keeps through
            arithmetic; or as `default` does.
        """
        dtype = _check_dtype(dtype)
        if dtype.kind == "f" and isinstance(attrs.get("_FillValue"), (int, np.integer)):
            raise InputError(
                f"the data are {dtype} but still carry the attributes of the DN they were computed from (_FillValue="
                f"{attrs['_FillValue']}); drop them for reflectance with NaN, of a DataArray by data.drop_attrs()",
                argument="data",
            )
        scale, offset, nodata = attrs.get("scale_factor"), attrs.get("add_offset", 0.0), attrs.get("_FillValue")
        try:
            return cls.default(dtype, scale=scale, offset=offset, nodata=nodata)
        except InputError as error:
            raise InputError(f"{error} (from the attributes scale_factor, add_offset and _FillValue)", argument="data") from None

    def attrs(self) -> dict[str, object]:
        """CF attributes that state this encoding."""
        return {
            "scale_factor": self.scale,
            "add_offset": self.offset,
            "_FillValue": self.dtype.type(self.nodata),
            "units": "1",
        }

    @property
    def is_integer(self) -> bool:
        """Whether the stored numbers are integers (DN)."""
        return self.dtype.kind in "iu"

    @property
    def _marks_saturation(self) -> bool:
        return self.dtype.newbyteorder("=") == np.uint16 and self.nodata != SATURATED_DN

    def is_nodata(self, numbers: AnyArray) -> npt.NDArray[np.bool_]:
        """Where `numbers` are nodata."""
        nodata: npt.NDArray[np.bool_] = np.isnan(numbers) if np.isnan(self.nodata) else numbers == self.dtype.type(self.nodata)
        return nodata

    def is_saturated(self, numbers: AnyArray) -> npt.NDArray[np.bool_]:
        """Where `numbers` are ESA's mark of a saturated pixel (uint16 only)."""
        if not self._marks_saturation:
            return np.zeros(numbers.shape, dtype=bool)
        saturated: npt.NDArray[np.bool_] = numbers == SATURATED_DN
        return saturated

    def decode(self, numbers: AnyArray) -> npt.NDArray[np.float32]:
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
        with np.errstate(over="ignore"):  # refused below
            reflectance: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
        reflectance[self.is_nodata(numbers) | self.is_saturated(numbers)] = np.nan
        if np.isinf(reflectance).any():
            raise InputError("the data hold numbers whose reflectance float32 cannot hold; mask them first", argument="data")
        return reflectance

    def check_finite(self, numbers: AnyArray) -> None:
        """Refuse floats that are infinite, or NaN although nodata is a number.

        Raises
        ------
        InputError
        """
        if np.isinf(numbers).any():
            raise InputError("the data hold infinities; make these numbers NaN, or nodata, first", argument="data")
        if not np.isnan(self.nodata) and np.isnan(numbers).any():
            raise InputError(
                f"the data hold NaN although their nodata is {self.nodata}; use one of the two, for example nodata=None for NaN",
                argument="data",
            )

    def encode(self, reflectance: FloatArray) -> AnyArray:
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
    def _work_dtype(self) -> AnyDtype:
        """What numbers are computed in: float32 holds every 16 bit integer and its reflectance to far below half a DN."""
        return np.dtype(np.float32 if self.dtype.itemsize <= 2 else np.float64)


def _check_dtype(dtype: npt.DTypeLike) -> AnyDtype:
    dtype = np.dtype(dtype)
    if dtype.kind not in "iuf":
        raise InputError(f"dtype {dtype} is not supported; give integers (DN) or floats (reflectance)", argument="data")
    return dtype


PRESENT_OFFSET = -0.1
"""Reflectance offset of ESA's products since baseline 04.00: reflectance = DN * 1e-4 - 0.1."""

FORMER_OFFSET = 0.0
"""Reflectance offset before baseline 04.00, and of pixels a catalog has moved back: reflectance = DN * 1e-4."""

PRESENT_ENCODING = Encoding.default(np.uint16, offset=PRESENT_OFFSET)
"""ESA's present encoding, the one `load` gives."""
