"""Reading one file: a whole window as it stands, and what to say when that fails.

Nothing is resampled or rescaled; a file that is not on the grid its item claims is an error. `sign` is called at each read, so
that a token that expires does no harm, and no signed href reaches a log or an error.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.windows
from affine import Affine

from s2pipe.errors import ReadError, redact

Sign = Callable[[str], str]
"""Gets an href and returns the one to read."""

_T = TypeVar("_T")

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}
"""GDAL's settings at each read; an environment variable of the same name wins."""

_FORGETFUL = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsiaz/:/vsigs/"}
"""GDAL remembers in a process that a file failed; a second attempt with this asks the server again."""


def _redact_record(record: logging.LogRecord) -> bool:
    """Take what may be a token out of what rasterio logs of GDAL; a logging filter, which lets every record pass."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


for _name in ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base"):
    logging.getLogger(_name).addFilter(_redact_record)


def read_window(labelled: str, sign: Sign | None, epsg: int, transform: Affine, shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """The pixels of one file on exactly this grid, (y, x); ReadError if they cannot be had."""
    href, _, label = labelled.rpartition("#")

    def read(signed: str) -> npt.NDArray[np.uint16]:
        try:
            return _read_file(signed, epsg, transform, shape, GDAL_OPTIONS)
        except rasterio.errors.RasterioError:
            if not _is_remote(signed):
                raise
            return _read_file(signed, epsg, transform, shape, {**GDAL_OPTIONS, **_FORGETFUL})

    return guarded(read, href, label, sign)


def _read_file(
    href: str, epsg: int, transform: Affine, shape: tuple[int, int], options: Mapping[str, str]
) -> npt.NDArray[np.uint16]:
    changed = {name: value for name, value in options.items() if name not in os.environ}
    with rasterio.Env(**changed), rasterio.open(href, sharing=False) as file:
        pixels: npt.NDArray[np.uint16] = file.read(1, window=_window_in(file, epsg, transform, shape))
        return pixels


def _is_remote(href: str) -> bool:
    return re.match(r"/vsi|(?!file:)\w+://", href) is not None


def _window_in(file: Any, epsg: int, transform: Affine, shape: tuple[int, int]) -> rasterio.windows.Window:
    """Where the grid lies in the file, in whole pixels."""
    if file.count != 1 or file.dtypes[0] != "uint16":
        raise Unfit(f"it holds {file.count} bands of {file.dtypes[0]}, not one of uint16 DN")
    column = (transform.c - file.transform.c) / transform.a
    row = (transform.f - file.transform.f) / transform.e
    on_grid = (
        (file.crs is None or file.crs.to_epsg() in (None, epsg))
        and file.transform.almost_equals(Affine(transform.a, 0, file.transform.c, 0, transform.e, file.transform.f), 1e-6)
        and abs(column - round(column)) < 1e-3
        and abs(row - round(row)) < 1e-3
        and round(column) >= 0
        and round(row) >= 0
        and round(row) + shape[0] <= file.height
        and round(column) + shape[1] <= file.width
    )
    if not on_grid:
        raise Unfit(
            f"the file has {file.height} x {file.width} px of {file.transform.a:g} m from {file.transform.c, file.transform.f} "
            f"in {file.crs}, not on the grid its item states ({transform.a:g} m, EPSG:{epsg})"
        )
    return rasterio.windows.Window(round(column), round(row), shape[1], shape[0])


class Unfit(Exception):
    """A file that opens but is not what its item says; the message holds no href."""


def guarded(read: Callable[[str], _T], href: str, label: str, sign: Sign | None) -> _T:
    """What `read` makes of the signed href; whatever goes wrong becomes a ReadError that shows the unsigned one.

    It is raised outside the handlers, because a chained error's text may hold the signed href.
    """
    signed: str | None = None
    try:
        signed = sign(href) if sign else href
        return read(signed)
    except Unfit as error:
        cause = str(error)
    except Exception as error:  # drivers raise nearly anything on damaged files
        cause = _likely_cause(error) if signed is not None else f"sign= failed with {type(error).__name__}"
    raise ReadError(f"cannot read {label} from {redact(href)}: {cause}")


_CAUSES = (
    (r"ImportError|ModuleNotFoundError", "a package for this kind of address is not installed, such as s3fs or aiohttp"),
    (r"\b404\b|No such file|does not exist|NoSuchKey|NotFound|FileNotFound|not found", "the file is missing"),
    (
        r"\b40[139]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AWS_SECRET_ACCESS_KEY|[Cc]redentials",
        "access is forbidden; the href may need signing, give sign=, or set the server's credentials in the environment",
    ),
    (r"\b(?:429|5\d\d)\b", "the server keeps failing although the read was retried; try again later"),
    (r"resolve host|[Cc]onnection|[Tt]imed out|CURL error", "the server cannot be reached; check the network"),
)


_NOT_THE_FILES = (AssertionError, AttributeError, NameError, NotImplementedError, TypeError)
"""What a defect in a program raises, ours or a driver's."""


def _likely_cause(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return f"there is not enough memory for it ({name}); give smaller chunks="
    if isinstance(error, _NOT_THE_FILES):
        return f"reading it failed with {name}"
    message = f"{name}: {error}"
    code = re.search(r"(?:HTTP|response|status|code)\D{0,20}\b(\d{3})\b", message)
    stated = f" (HTTP {code[1]})" if code else ""
    for pattern, cause in _CAUSES:
        if re.search(pattern, f"HTTP {code[1]}" if code else message):
            return f"{cause}{stated}"
    return f"the file is truncated, damaged, or of no known format ({name}){stated}"
